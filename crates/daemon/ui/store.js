// The jobs as the daemon tells them: a list by the filter, and one stream of changes of all jobs.
import { call, follow, token } from './api.js';

const PAGE = 500; // jobs of one list; the daemon gives 1000 at most
const RETRY_MS = [500, 1000, 2000, 5000];
const LIST_PAUSE_MS = 1500; // between two lists that changes ask for
const HIDDEN_MS = 5000; // a tab that nobody sees for so long gives its connection back

export const ended = (job) => ['completed', 'failed', 'cancelled'].includes(job.status);

// By this, those that wait begin: the most urgent first, then the oldest.
const turn = (job) => `${['high', 'normal', 'low'].indexOf(job.priority ?? 'normal')} ${job.created_at}`;

// Letters of ASCII alone, as the daemon does it.
const lower = (text) => text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());

// As the daemon has it for its own list.
function matches(job, filter) {
  const has = (text, part) => lower(text ?? '').includes(lower(part));
  if (filter.status && !filter.status.split(',').includes(job.status)) return false;
  if (filter.priority && !filter.priority.split(',').includes(job.priority)) return false;
  if (filter.image && !has(job.image_url, filter.image)) return false;
  if (filter.since && !(job.created_at >= filter.since)) return false;
  if (filter.q && ![job.job_id, job.volume_name, job.image_url, job.correlation_id, job.error]
    .some((text) => has(text, filter.q))) return false;
  return true;
}

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

class Store {
  filter = {};
  jobs = []; // newest first, without gaps, up to where it was read
  total = 0;
  link = 'connecting'; // connecting, live, paused, offline, denied
  problem = null;
  loading = true;
  watched = null; // the job that is looked at by itself
  rates = new Map(); // of running jobs: bytes per second
  samples = new Map(); // of jobs that were seen to run: [{ at, bytes, stage }]
  #known = new Map();
  #listeners = new Set();
  #abort = null; // of everything
  #stream = null; // of the stream alone
  #lastId = null;
  #list = 0;
  #listed = null; // what was told since a list was asked for
  #again = null;
  #frame = null;
  #waiting = null;

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  // At most once for each frame, however many events come.
  #tell() {
    if (this.#frame) return;
    this.#frame = setTimeout(() => {
      this.#frame = null;
      this.#waiting = null;
      for (const listener of this.#listeners) listener();
    }, 50);
  }

  job(id) { return this.#known.get(id); }

  // How many wait before this one; `least` when older ones may not be known here.
  position(job) {
    this.#waiting ??= [...this.#known.values()].filter((other) => other.status === 'pending').map(turn).sort();
    const mine = turn(job);
    let [low, high] = [0, this.#waiting.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#waiting[middle] < mine) low = middle + 1;
      else high = middle;
    }
    return { count: low, least: this.jobs.length < this.total || Object.keys(this.filter).length > 0 };
  }

  start() {
    if (this.#abort) return;
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    document.addEventListener('visibilitychange', () => this.#seen(), { signal });
    this.reload();
    this.#run(signal);
  }

  stop() {
    this.#abort?.abort();
    this.#stream?.abort();
    this.#abort = null;
    this.#lastId = null;
    this.#known.clear();
    this.jobs = [];
    this.total = 0;
    this.loading = true;
  }

  // A browser has six connections for each host: tabs that nobody sees must not hold them all.
  #seen() {
    clearTimeout(this.hiding);
    if (document.hidden) this.hiding = setTimeout(() => { if (document.hidden) this.#stream?.abort(); }, HIDDEN_MS);
  }

  async #visible(signal) {
    while (document.hidden && !signal.aborted) {
      this.link = 'paused';
      await new Promise((resolve) => {
        document.addEventListener('visibilitychange', resolve, { once: true });
        signal.addEventListener('abort', resolve, { once: true });
      });
    }
  }

  async #run(signal) {
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      await this.#visible(signal);
      this.#stream = new AbortController();
      try {
        await follow('/api/v1/events', this.#lastId, this.#stream.signal, () => {
          attempt = 0;
          this.link = 'live';
          this.problem = null;
          this.#tell();
        }, (event) => this.#take(event));
        this.problem = null;
      } catch (error) {
        if (signal.aborted) return;
        if (this.#stream.signal.aborted) continue;
        this.problem = error;
        if (error.status === 401 || error.status === 403) {
          this.link = 'denied';
          if (error.status === 401) token.clear();
          this.#tell();
          return;
        }
      }
      if (signal.aborted) return;
      if (this.#stream.signal.aborted) continue;
      this.link = 'offline';
      this.#tell();
      await pause(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)] * (0.75 + Math.random() / 2));
    }
  }

  #take(event) {
    if (event.id) this.#lastId = event.id;
    if (event.event === 'reset') {
      // Nothing that had not ended is known to be so still.
      for (const [id, job] of this.#known) if (!ended(job)) this.#known.delete(id);
      this.reload();
      if (this.watched) this.fetch(this.watched).catch(() => {});
    } else if (event.event === 'job') {
      this.put(JSON.parse(event.data));
    }
  }

  // What is told of a job, newer or older than what is known.
  put(job) {
    const known = this.#known.get(job.job_id);
    if (known && known.updated_at > job.updated_at) return;
    this.#known.set(job.job_id, job);
    this.#listed?.set(job.job_id, job);
    this.#sample(job);
    this.#place(job, known);
    if (ended(job)) this.onend?.(job, known);
    this.#tell();
  }

  // Puts a job to its place in the list, if it belongs there.
  #place(job, known) {
    const at = this.jobs.findIndex((other) => other.job_id === job.job_id);
    const belongs = matches(job, this.filter);
    if (at >= 0 && belongs) {
      this.jobs[at] = job;
      return;
    }
    if (at >= 0) {
      this.jobs.splice(at, 1);
      this.total -= 1;
      return;
    }
    const last = this.jobs.at(-1);
    const inReach = this.jobs.length >= this.total || (last && job.created_at > last.created_at);
    if (belongs && inReach) {
      let place = this.jobs.findIndex((other) => other.created_at <= job.created_at);
      if (place < 0) place = this.jobs.length;
      this.jobs.splice(place, 0, job);
      this.total += 1;
    } else if (belongs !== (known ? matches(known, this.filter) : false)) {
      // Below what was read: only the daemon can count those.
      this.#recount();
    }
  }

  // Asks how many there are, once in a while.
  #recount() {
    this.#again ??= setTimeout(async () => {
      const list = this.#list;
      try {
        const { total } = await this.#read(0, 1);
        if (list === this.#list) this.total = Math.max(total, this.jobs.length);
      } catch { /* the stream tells when the daemon is gone */ }
      this.#again = null;
      this.#tell();
    }, LIST_PAUSE_MS);
  }

  #sample(job) {
    const { job_id: id, progress } = job;
    if (job.status !== 'running' || !progress) {
      this.rates.delete(id);
      return;
    }
    const at = performance.now();
    const samples = this.samples.get(id) ?? [];
    const last = samples.at(-1);
    if (last && at - last.at < 150) return;
    samples.push({ at, bytes: progress.bytes_processed, stage: progress.stage });
    if (samples.length > 600) samples.splice(0, 2);
    this.samples.set(id, samples);
    if (this.samples.size > 100) this.samples.delete(this.samples.keys().next().value);
    // Over the last three seconds of this stage.
    const first = samples.find((sample) => at - sample.at < 3000 && sample.stage === progress.stage);
    const span = (at - first.at) / 1000;
    if (span > 0.3) this.rates.set(id, (progress.bytes_processed - first.bytes) / span);
  }

  setFilter(filter) {
    this.filter = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
    this.jobs = [];
    this.reload();
  }

  // The list anew, as deep as it was read.
  async reload() {
    const list = ++this.#list;
    const depth = Math.max(PAGE, this.jobs.length);
    const told = new Map();
    this.#listed = told;
    this.loading = true;
    this.#tell();
    try {
      const jobs = [];
      let total = 0;
      do {
        const found = await this.#read(jobs.length, PAGE);
        if (list !== this.#list) return;
        jobs.push(...found.jobs);
        total = found.total;
        if (!found.jobs.length) break;
      } while (jobs.length < Math.min(depth, total));
      this.#listed = null;
      for (const job of jobs) {
        const known = this.#known.get(job.job_id);
        if (!known || known.updated_at <= job.updated_at) this.#known.set(job.job_id, job);
      }
      const seen = new Set();
      const first = (job) => !seen.has(job.job_id) && seen.add(job.job_id);
      this.jobs = jobs.filter(first).map((job) => this.#known.get(job.job_id));
      this.total = total;
      // What was told meanwhile is newer than the list.
      for (const job of told.values()) this.#place(job, this.#known.get(job.job_id));
      this.jobs = this.jobs.filter((job) => matches(job, this.filter));
      this.problem = null;
    } catch (error) {
      if (list !== this.#list) return;
      this.#listed = null;
      this.problem = error;
    }
    this.loading = false;
    this.#tell();
  }

  // The next part of the list, when the end of what was read comes into view.
  async more() {
    if (this.loading || this.jobs.length >= this.total) return;
    const list = this.#list;
    this.loading = true;
    try {
      const found = await this.#read(this.jobs.length, PAGE);
      if (list !== this.#list) return;
      const there = new Set(this.jobs.map((job) => job.job_id));
      for (const job of found.jobs) {
        if (!this.#known.has(job.job_id)) this.#known.set(job.job_id, job);
        const newest = this.#known.get(job.job_id);
        if (!there.has(job.job_id) && matches(newest, this.filter)) this.jobs.push(newest);
      }
      this.total = found.jobs.length ? Math.max(found.total, this.jobs.length) : this.jobs.length;
    } catch (error) {
      if (list !== this.#list) return;
      this.problem = error;
    }
    this.loading = false;
    this.#tell();
  }

  #read(offset, limit) {
    const query = new URLSearchParams({ ...this.filter, limit, offset });
    return call('GET', `/api/v1/jobs?${query}`);
  }

  // One job that no list has brought, or anew.
  async fetch(id) {
    const job = await call('GET', `/api/v1/jobs/${encodeURIComponent(id)}`);
    const known = this.#known.get(id);
    if (!known || known.updated_at <= job.updated_at) this.#known.set(id, job);
    this.#tell();
    return job;
  }
}

export const store = new Store();
