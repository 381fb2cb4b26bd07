// The jobs as the daemon tells them: a list by the filter, and one stream of changes of all jobs.
import { call, follow, token } from './api.js';

const PAGE = 500;
const RETRY_MS = [500, 1000, 2000, 5000];

export const ended = (job) => ['completed', 'failed', 'cancelled'].includes(job.status);

// As the daemon has it for its own list.
function matches(job, filter) {
  const has = (text, part) => (text ?? '').toLowerCase().includes(part.toLowerCase());
  if (filter.status && !filter.status.split(',').includes(job.status)) return false;
  if (filter.image && !has(job.image_url, filter.image)) return false;
  if (filter.since && !(job.created_at >= filter.since)) return false;
  if (filter.q && ![job.job_id, job.volume_name, job.image_url, job.correlation_id, job.error]
    .some((text) => has(text, filter.q))) return false;
  return true;
}

class Store {
  filter = {};
  jobs = []; // newest first, without gaps, up to where it was read
  total = 0;
  link = 'connecting'; // connecting, live, offline, denied
  problem = null;
  loading = true;
  rates = new Map(); // of running jobs: bytes per second
  samples = new Map(); // of jobs that were seen to run: [{ at, bytes, stage }]
  #known = new Map();
  #listeners = new Set();
  #abort = null;
  #lastId = null;
  #list = 0;
  #frame = null;

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  // At most once for each frame, however many events come.
  #tell() {
    if (this.#frame) return;
    this.#frame = setTimeout(() => {
      this.#frame = null;
      for (const listener of this.#listeners) listener();
    }, 50);
  }

  job(id) { return this.#known.get(id); }

  // How many wait before this one.
  position(job) {
    return [...this.#known.values()]
      .filter((other) => other.status === 'pending' && other.created_at < job.created_at).length;
  }

  start() {
    if (this.#abort) return;
    this.#abort = new AbortController();
    this.#run(this.#abort.signal);
  }

  stop() {
    this.#abort?.abort();
    this.#abort = null;
    this.#lastId = null;
    this.#known.clear();
    this.jobs = [];
    this.total = 0;
    this.loading = true;
  }

  async #run(signal) {
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      try {
        await follow('/api/v1/events', this.#lastId, signal, () => {
          attempt = 0;
          this.link = 'live';
          this.problem = null;
          this.#tell();
        }, (event) => this.#take(event));
      } catch (error) {
        if (signal.aborted) return;
        this.problem = error;
        if (error.status === 401 || error.status === 403) {
          this.link = 'denied';
          if (error.status === 401) token.clear();
          this.#tell();
          return;
        }
      }
      if (signal.aborted) return;
      this.link = 'offline';
      this.#tell();
      const wait = RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)];
      await new Promise((resolve) => { setTimeout(resolve, wait * (0.75 + Math.random() / 2)); });
    }
  }

  #take(event) {
    if (event.id) this.#lastId = event.id;
    if (event.event === 'reset') {
      this.reload();
    } else if (event.event === 'job') {
      this.put(JSON.parse(event.data));
    }
  }

  // What is told of a job, newer or older than what is known.
  put(job) {
    const known = this.#known.get(job.job_id);
    if (known && known.updated_at > job.updated_at) return;
    this.#known.set(job.job_id, job);
    this.#sample(job);
    const at = this.jobs.findIndex((other) => other.job_id === job.job_id);
    const belongs = matches(job, this.filter);
    if (at >= 0 && belongs) {
      this.jobs[at] = job;
    } else if (at >= 0) {
      this.jobs.splice(at, 1);
      this.total -= 1;
    } else if (belongs && !known) {
      // Where it belongs by its time: lists and events may overtake each other.
      let place = this.jobs.findIndex((other) => other.created_at <= job.created_at);
      if (place < 0) place = this.jobs.length;
      if (place < this.jobs.length || this.jobs.length === this.total) this.jobs.splice(place, 0, job);
      this.total += 1;
    } else if (belongs) {
      this.reload(); // it has come into the filter
    }
    if (ended(job)) this.onend?.(job, known);
    this.#tell();
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
    // Over the last three seconds of this stage.
    const first = samples.find((sample) => at - sample.at < 3000 && sample.stage === progress.stage);
    const span = (at - first.at) / 1000;
    if (span > 0.3) this.rates.set(id, (progress.bytes_processed - first.bytes) / span);
  }

  setFilter(filter) {
    this.filter = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
    this.reload();
  }

  async reload() {
    const list = ++this.#list;
    this.loading = true;
    this.#tell();
    try {
      const found = await this.#read(0);
      if (list !== this.#list) return;
      this.jobs = found.jobs;
      this.total = found.total;
      for (const job of found.jobs) {
        const known = this.#known.get(job.job_id);
        if (!known || known.updated_at <= job.updated_at) this.#known.set(job.job_id, job);
      }
      this.jobs = this.jobs.map((job) => this.#known.get(job.job_id));
      this.problem = null;
    } catch (error) {
      if (list !== this.#list) return;
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
      const found = await this.#read(this.jobs.length);
      if (list !== this.#list) return;
      const there = new Set(this.jobs.map((job) => job.job_id));
      for (const job of found.jobs) {
        if (!this.#known.has(job.job_id)) this.#known.set(job.job_id, job);
        if (!there.has(job.job_id)) this.jobs.push(this.#known.get(job.job_id));
      }
      this.total = Math.max(found.total, this.jobs.length);
      if (!found.jobs.length) this.total = this.jobs.length;
    } catch (error) {
      this.problem = error;
    }
    this.loading = false;
    this.#tell();
  }

  #read(offset) {
    const query = new URLSearchParams({ ...this.filter, limit: PAGE, offset });
    return call('GET', `/api/v1/jobs?${query}`);
  }

  // One job that no list has brought.
  async fetch(id) {
    const job = await call('GET', `/api/v1/jobs/${encodeURIComponent(id)}`);
    if (!this.#known.has(id)) this.#known.set(id, job);
    this.#tell();
    return job;
  }
}

export const store = new Store();
