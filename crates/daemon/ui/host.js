// The daemon, and what it depends on.
import { html } from './preact.js';
import { call } from './api.js';
import { Chip, Problem, useRead } from './parts.js';

const MEANING = {
  minio: 'the object store', lvm: 'the volume group', libvirt: 'libvirtd', storage: 'the database', cache: 'the images on this host', dir: 'the directory of the volumes',
};

export function Host() {
  const health = useRead(() => call('GET', '/health'), 5000);
  const ready = useRead(() => call('GET', '/readyz', undefined, { any: true }), 5000);
  const api = useRead(() => call('GET', '/openapi.json'));
  const dependencies = Object.entries(ready.data?.dependencies ?? {});
  const calls = Object.entries(api.data?.paths ?? {}).flatMap(([path, methods]) => Object.entries(methods)
    .map(([method, operation]) => [method.toUpperCase(), path, operation.summary]));
  return html`<section><div class="head"><h1>Host</h1></div><${Problem} error=${health.problem ?? ready.problem} retry=${() => { health.reload(); ready.reload(); }} />
    ${health.data && html`<dl><dt>Daemon</dt><dd><${Chip} kind=${health.data.status} /> ${health.data.status === 'degraded' && 'every place for jobs is taken'}</dd>
      <dt>Version</dt><dd>${health.data.version}</dd><dt>Running for</dt><dd>${health.data.uptime}</dd></dl>`}
    <h2>Dependencies</h2>
    ${ready.data && !dependencies.length && html`<p class="empty">Nothing is known yet: the first probes are under way.</p>`}
    <ul class="cards">${dependencies.map(([name, state]) => html`<li class="card" key=${name}><b>${name}</b> <${Chip} kind=${state.up ? 'up' : 'down'} />
      <p class="dim">${MEANING[name] ?? ''}</p>${state.error && html`<p class="error-text">${state.error}</p>`}</li>`)}</ul>
    <details><summary>The API, ${calls.length} calls</summary><${Problem} error=${api.problem} />
      <div class="table-box" tabindex="0" role="region" aria-label="Calls of the API"><table><thead><tr><th>Method</th><th>Route</th><th>What it does</th></tr></thead>
        <tbody>${calls.map(([method, path, summary]) => html`<tr><td>${method}</td><td><code>${path}</code></td><td>${summary}</td></tr>`)}</tbody></table></div></details></section>`;
}
