// The daemon, what it depends on, what doctor finds, and what the last day was like.
import { html } from './preact.js';
import { call } from './api.js';
import { bytes, exact, rate, seconds } from './format.js';
import { Bar, Chip, Problem, Remedy, Time, useNow, useRead } from './parts.js';

const MEANING = {
  __proto__: null, minio: 'the object store', lvm: 'the volume group', libvirt: 'libvirtd', storage: 'the database', cache: 'the images on this host', dir: 'the directory of the volumes',
};
const CERTIFICATES = { __proto__: null, server: "the daemon's certificate", client_ca: 'the CA of clients' };
const RESULTS = { __proto__: null, ok: 'up', warn: 'degraded', fail: 'down' };
const SOON_MS = 30 * 86400e3;

export function Host() {
  const now = useNow(5000);
  const host = useRead(() => call('GET', '/api/v1/host'), 5000);
  const history = useRead(() => call('GET', '/api/v1/history'), 60000);
  const api = useRead(() => call('GET', '/openapi.json'));
  const data = host.data;
  const dependencies = Object.entries(data?.readiness?.dependencies ?? {});
  const calls = Object.entries(api.data?.paths ?? {}).flatMap(([path, methods]) => Object.entries(methods)
    .map(([method, operation]) => [method.toUpperCase(), path, operation.summary]));
  return html`<section><div class="head"><h1>Host ${data && html`<${Chip} kind=${data.readiness.ready ? 'up' : 'down'}>${data.readiness.ready ? 'ready' : 'not ready'}</${Chip}>`}</h1></div>
    <${Problem} error=${host.problem} retry=${host.reload} />
    ${!data && !host.problem && html`<p class="empty" aria-busy="true">Asking the daemon…</p>`}
    ${data && html`<ul class="cards"><li class="card"><b>Daemon</b><p>${data.version}</p><p class="dim">Running for ${seconds(data.uptime_sec)}, since <${Time} value=${data.started_at} now=${now} /></p></li>
      <li class="card"><b>Places for jobs</b><p>${data.jobs.running} of ${data.jobs.max_running} taken</p><${Bar} value=${(100 * data.jobs.running) / data.jobs.max_running} label="Places that are taken" />
        <p class="dim">${data.jobs.max_pending} more may wait</p></li>
      ${data.cache && html`<li class="card"><b>Cache</b><p>${bytes(data.cache.size_bytes)} in ${data.cache.images} ${data.cache.images === 1 ? 'image' : 'images'}${data.cache.max_bytes !== undefined && `, of ${bytes(data.cache.max_bytes)}`}</p>
        ${data.cache.max_bytes > 0 && html`<${Bar} value=${(100 * data.cache.size_bytes) / data.cache.max_bytes} label="The cache's fill" />`}<p class="dim">${bytes(data.cache.free_bytes)} free on its disk</p></li>`}
      ${data.volumes && html`<li class="card"><b>Room for volumes</b><p>${bytes(data.volumes.free_bytes)} free of ${bytes(data.volumes.total_bytes)}</p>
        <${Bar} value=${100 - (100 * data.volumes.free_bytes) / Math.max(1, data.volumes.total_bytes)} label="Room that is taken" /><p class="dim">${MEANING[data.volumes.backend] ?? data.volumes.backend}</p></li>`}
      ${data.certificates.map((end) => html`<li class="card" key=${end.name}><b>Certificate</b> ${Date.parse(end.not_after) - now < SOON_MS && html`<${Chip} kind="degraded">${Date.parse(end.not_after) < now ? 'expired' : 'expires soon'}</${Chip}>`}
        <p>${CERTIFICATES[end.name] ?? end.name}</p><p class="dim">valid until ${exact(end.not_after)}</p></li>`)}</ul>
    <h2>Dependencies</h2>
    <ul class="cards">${dependencies.map(([name, state]) => html`<li class="card" key=${name}><b>${name}</b> <${Chip} kind=${state.up ? 'up' : 'down'} />
      <p class="dim">${MEANING[name] ?? ''}${state.since && html`, ${state.up ? 'up' : 'down'} since <${Time} value=${state.since} now=${now} />`}</p>${state.error && html`<p class="error-text">${state.error}</p>`}</li>`)}</ul>`}
    <h2>The last 24 hours</h2><${Problem} error=${history.problem} retry=${history.reload} />${history.data && html`<${Day} history=${history.data} />`}
    <${Doctor} now=${now} />
    <details><summary>The API, ${calls.length} calls</summary><${Problem} error=${api.problem} />
      <div class="table-box" tabindex="0" role="region" aria-label="Calls of the API"><table><thead><tr><th>Method</th><th>Route</th><th>What it does</th></tr></thead>
        <tbody>${calls.map(([method, path, summary]) => html`<tr><td>${method}</td><td><code>${path}</code></td><td>${summary}</td></tr>`)}</tbody></table></div></details></section>`;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

// Small plots, one bar for each interval.
function Day({ history }) {
  const counts = history.completed.map((done, at) => done + history.failed[at] + history.cancelled[at]);
  const plots = [
    ['Jobs that ended', counts, history.failed, `${sum(history.completed)} completed, ${sum(history.failed)} failed, ${sum(history.cancelled)} cancelled`],
    ['Fetched', history.fetched_bytes, null, `${bytes(sum(history.fetched_bytes))} in all, at most ${rate(Math.max(...history.fetched_bytes) / history.interval_sec)}`],
    ['Written', history.written_bytes, null, `${bytes(sum(history.written_bytes))} in all, at most ${rate(Math.max(...history.written_bytes) / history.interval_sec)}`],
  ];
  return html`<ul class="cards">${plots.map(([name, values, bad, told]) => {
    const top = Math.max(...values, 1);
    const width = 600 / values.length;
    const bar = (value, at, kind) => value > 0 && html`<rect key=${`${kind}${at}`} class=${kind} x=${(at * width).toFixed(1)} y=${(60 - (value / top) * 58).toFixed(1)} width=${(width * 0.8).toFixed(1)} height=${((value / top) * 58).toFixed(1)} />`;
    return html`<li class="card" key=${name}><b>${name}</b><figure class="plot small"><svg viewBox="0 0 600 60" role="img" aria-label=${`${name} in the last 24 hours: ${told}`} preserveAspectRatio="none">
      ${values.map((value, at) => bar(value, at, 'plot-bar'))}${bad?.map((value, at) => bar(value, at, 'plot-bar-failed'))}</svg><figcaption>${told}</figcaption></figure></li>`;
  })}</ul><p class="dim">Each bar is ${Math.round(history.interval_sec / 60)} minutes; a job counts where it ended.</p>`;
}

function Doctor({ now }) {
  const { data, problem, reload } = useRead(() => call('GET', '/api/v1/doctor'), 120000);
  const checks = [...(data?.checks ?? [])].sort((a, b) => (a.status === 'ok') - (b.status === 'ok'));
  return html`<h2>Doctor ${data && html`<${Chip} kind=${RESULTS[data.status]}>${data.status}</${Chip}>`}</h2><${Problem} error=${problem} retry=${reload} />
    ${!data && !problem && html`<p class="dim" aria-busy="true">The checks are under way…</p>`}
    ${data && html`<p class="dim">Checked <${Time} value=${data.checked_at} now=${now} />; again once this is a minute old and somebody looks.</p>
      <div class="table-box" tabindex="0" role="region" aria-label="What doctor found"><table><thead><tr><th>Result</th><th>Check</th><th>What was found, and what to do</th></tr></thead>
      <tbody>${checks.map((check, at) => html`<tr key=${at}><td><${Chip} kind=${RESULTS[check.status]}>${check.status}</${Chip}></td><td><code>${check.check}</code></td>
        <td class="break">${check.message}<${Remedy} text=${check.remedy} /></td></tr>`)}</tbody></table></div>`}`;
}
