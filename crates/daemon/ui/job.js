// One job: how far, how fast, why not, and how to ask for it again.
import { html, useEffect, useState } from './preact.js';
import { address, call } from './api.js';
import { bytes, exact, percent, rate, seconds } from './format.js';
import { Course, Log } from './course.js';
import { Bar, Chip, Copy, Problem, Remedy, Time, Waiting, ahead, useNow, useStore } from './parts.js';
import { ended } from './store.js';

// Where traces are looked at, if the daemon says so; an address of another scheme would be code.
function Trace({ id }) {
  const [template, set] = useState(null);
  useEffect(() => { call('GET', '/api/v1/host').then((host) => set(host.trace_url), () => {}); }, []);
  const url = template?.replaceAll('{trace_id}', encodeURIComponent(id));
  return /^https?:\/\//.test(url ?? '') ? html`<a href=${url} rel="noopener noreferrer" target="_blank">${id}</a>` : id;
}

const STAGES = ['initializing', 'downloading', 'converting', 'finalizing'];
const STAGES_OF_VERIFYING = ['initializing', 'verifying'];

export function Job({ id, act }) {
  const store = useStore();
  const now = useNow();
  const [problem, setProblem] = useState(null);
  const job = store.job(id);
  useEffect(() => {
    setProblem(null);
    store.watched = id;
    return () => { store.watched = null; };
  }, [id]);
  useEffect(() => { if (!job) store.fetch(id).catch(setProblem); }, [id, !job]);
  if (!job) return problem ? html`<${Problem} error=${problem} />` : html`<p class="empty" aria-busy="true">Reading the job…</p>`;

  const { progress, verification } = job;
  const stages = job.kind === 'verify' ? STAGES_OF_VERIFYING : STAGES;
  const facts = [
    ['Image', job.image_url || undefined], ['Volume', job.volume_path ?? job.volume_name], ['Digest', job.image_digest && `sha256:${job.image_digest}`],
    ['Verified by', { none: 'nothing: no checksum was found', signature: 'a signature', request: 'the checksum of the request', sidecar: 'its checksum file', sums: "its directory's checksum file" }[job.verified] ?? job.verified],
    ['Signed by', job.signer && (job.signer.name ? `${job.signer.fingerprint} (${job.signer.name})` : job.signer.fingerprint)],
    ['Cache', job.cache_hit === undefined ? undefined : job.cache_hit ? 'hit: no byte was fetched' : 'miss: fetched from the store'],
    ['Made by', { clone: "cloning the image's golden volume", copy: 'copying the image from the cache', stream: 'writing the image as it was fetched' }[job.method] ?? job.method],
    ['Content', verification && (verification.matches ? `as it was written, from image ${verification.image_digest}`
      : `differs from what was written, from image ${verification.image_digest}${(verification.differences ?? []).map((part) => `; ${part.length} bytes at ${part.offset}`).join('')}${verification.has_more ? ' and more' : ''}`)],
    ['Priority', job.priority === 'normal' ? undefined : job.priority],
    ['If the pool is full', job.when_full === 'wait' ? 'waits for room' : undefined],
    ['Cached as', job.image_path], ['Correlation id', job.correlation_id], ['Attempts', job.attempts > 1 ? job.attempts : undefined],
    ['Accepted', exact(job.created_at)], ['Begun', progress?.job_start_time && exact(progress.job_start_time)],
    [ended(job) ? 'Ended' : 'Last change', exact(job.updated_at)],
    ['Trace', job.trace_id && html`<${Trace} id=${job.trace_id} />`], ['Job', job.job_id],
  ];
  return html`<article class="job" aria-labelledby="job-title">
    <p><a href="#/jobs">← All jobs</a></p>
    <div class="head"><h1 id="job-title">${job.kind === 'verify' ? `Verification of ${job.volume_name}` : job.volume_name ?? (job.kind === 'golden' ? 'To a golden volume' : 'To the cache')} <${Chip} kind=${job.status} /></h1>
      <div class="actions">${!ended(job) && html`<button type="button" onClick=${() => act('cancel', job)}>Cancel</button>`}
        ${['failed', 'cancelled'].includes(job.status) && html`<button type="button" class="primary" onClick=${() => act('retry', job)}>Retry</button>`}</div></div>
    ${job.error && html`<div class="problem" role="alert"><strong>${job.error_type} (${job.error_code})</strong><p>${job.error}</p>
      <${Remedy} text=${job.remedy} /></div>`}
    ${job.waiting && html`<${Waiting} waiting=${job.waiting} now=${now} />`}
    ${job.status === 'pending' && html`<p>Waits for a free place: ${ahead(store.position(job))}, since <${Time} value=${job.created_at} now=${now} />.</p>`}
    ${progress && html`<section aria-label="Progress"><${Bar} value=${progress.overall_percent} state=${job.status} label="Whole job" />
      <p class="big">${percent(progress.overall_percent)} ${job.status === 'running' && html`<span class="dim">${seconds(progress.overall_eta_sec)} left</span>`}</p>
      ${!ended(job) && html`<ol class="stages">${stages.map((stage) => {
        const state = stage === progress.stage ? 'now' : stages.indexOf(stage) < stages.indexOf(progress.stage) ? 'past' : 'later';
        return html`<li class=${state} aria-current=${state === 'now' ? 'step' : undefined}>${stage}</li>`;
      })}</ol><p class="dim">${bytes(progress.bytes_processed)} of ${bytes(progress.bytes_total)} in this stage, ${rate(store.rates.get(id))},
        since <${Time} value=${progress.stage_start_time} now=${now} /></p>`}</section>`}
    <${Course} job=${job} />
    ${job.notes?.length > 0 && html`<section><h2>Notes</h2><ul>${job.notes.map((note) => html`<li>${note}</li>`)}</ul></section>`}
    <section><h2>Facts</h2><dl>${facts.filter(([, value]) => value !== undefined && value !== null && value !== false)
      .map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl></section>
    <${Log} job=${job} />
    <${Requests} job=${job} /></article>`;
}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
// No template: whoever made the job must not have a word in the playbook of who copies it.
const unsafe = (value) => (typeof value === 'string' ? `!unsafe ${JSON.stringify(value)}` : String(value));

// The same request for those who write it down.
function Requests({ job }) {
  const isVerify = job.kind === 'verify';
  const volume = isVerify ? undefined : job.volume_name;
  const body = isVerify ? { volume_name: job.volume_name } : { image_url: job.image_url, image_type: job.image_type };
  if (volume) Object.assign(body, { volume_name: volume, volume_size_bytes: job.volume_size_bytes });
  if (volume && job.clone && job.clone !== 'auto') body.clone = job.clone;
  if (volume && job.when_full === 'wait') body.when_full = 'wait';
  const usual = ['cache', 'golden'].includes(job.kind) ? 'low' : 'normal';
  if (job.priority && job.priority !== usual) body.priority = job.priority;
  if (job.correlation_id) body.correlation_id = job.correlation_id;
  const path = isVerify ? '/api/v1/verifications' : volume ? '/api/v1/jobs' : job.kind === 'golden' ? '/api/v1/golden' : '/api/v1/cache/fetch';
  const curl = `curl --fail-with-body -H "Authorization: Bearer $TOKEN" \\\n  -d ${quoted(JSON.stringify(body))} \\\n  ${quoted(address(path))}`;
  const options = [['--size', volume && job.volume_size_bytes], ['--image-type', job.image_type], ['--clone', body.clone], ['--wait-for-room', body.when_full && '1h'], ['--priority', body.priority], ['--correlation-id', job.correlation_id]]
    .filter(([, value]) => value).map(([name, value]) => ` ${name} ${quoted(value)}`).join('');
  const lvpctl = isVerify ? `lvpctl volumes verify ${quoted(job.volume_name)}` : volume ? `lvpctl provision${options} ${quoted(job.image_url)} ${quoted(volume)}` : `lvpctl ${job.kind === 'golden' ? 'golden make' : 'cache fetch'}${options} ${quoted(job.image_url)}`;
  const fields = Object.entries(body).filter(([, value]) => value !== undefined)
    .map(([name, value]) => `\n      ${name}: ${unsafe(value)}`).join('');
  const ansible = `- ansible.builtin.uri:\n    url: ${unsafe(address(path))}\n    method: POST\n    headers: { Authorization: "Bearer {{ token }}" }\n    body_format: json\n    body:${fields}\n    status_code: 202`;
  return html`<details><summary>The request, to copy</summary>
    <p class="dim">As it is kept: without its idempotency key, a signature in its URL, and whether it was to adopt a volume.</p>
    <${Copy} label="curl" text=${curl} /><${Copy} label="lvpctl" text=${lvpctl} /><${Copy} label="Ansible" text=${ansible} /></details>`;
}
