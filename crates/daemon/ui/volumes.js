// The volumes where jobs put images.
import { html, useState } from './preact.js';
import { call } from './api.js';
import { bytes, percent, short } from './format.js';
import { Bar, Chip, Empty, Problem, useRead } from './parts.js';

// How full what volumes are made in is.
function Room() {
  const { data } = useRead(() => call('GET', '/api/v1/host'), 10000);
  const room = data?.volumes;
  if (!room) return null;
  const used = 100 - (100 * room.free_bytes) / Math.max(1, room.total_bytes);
  const bars = [[room.backend === 'lvm' ? 'Volume group' : 'Directory', used, `${bytes(room.free_bytes)} free of ${bytes(room.total_bytes)}`]];
  if (room.pool?.data_percent !== undefined) bars.push([`Pool ${room.pool.name}, data`, room.pool.data_percent, percent(room.pool.data_percent)]);
  if (room.pool?.metadata_percent !== undefined) bars.push([`Pool ${room.pool.name}, metadata`, room.pool.metadata_percent, percent(room.pool.metadata_percent)]);
  return html`<ul class="cards fill">${bars.map(([name, value, told]) => html`<li class="card" key=${name}><b>${name}</b><${Bar} value=${value} label=${`${name}: used`} /><p class="dim">${told}</p></li>`)}</ul>
    ${room.pool?.flaw && html`<p class="problem" role="alert">No job is given room in the pool: ${room.pool.flaw}</p>`}`;
}

export function Volumes() {
  const { data, problem, reload } = useRead(() => call('GET', '/api/v1/volumes'), 5000);
  const [text, setText] = useState('');
  const all = data?.volumes ?? [];
  const volumes = all.filter((volume) => volume.name.toLowerCase().includes(text.trim().toLowerCase()));
  return html`<section><div class="head"><h1>Volumes <span class="dim">${data && `${all.length}, ${bytes(all.reduce((sum, volume) => sum + volume.size_bytes, 0))}`}</span></h1></div>
    <${Problem} error=${problem} retry=${reload} /><${Room} />
    <div class="filters"><input type="search" aria-label="Search the volumes" placeholder="Name…" value=${text} onInput=${(event) => setText(event.target.value)} /></div>
    ${!data ? html`<p class="empty" aria-busy="true">Reading the volumes…</p>` : !volumes.length ? html`<${Empty}>${all.length ? 'No volume is called so.' : 'There are no volumes yet.'}</${Empty}>`
      : html`<div class="table-box" tabindex="0" role="region" aria-label="Volumes"><table><thead><tr><th>Name</th><th>Kind</th><th>State</th><th>Size</th><th>Image</th><th>Job</th></tr></thead>
        <tbody>${volumes.map((volume) => html`<tr key=${volume.name}><td class="break" title=${volume.path}>${volume.name}</td><td>${volume.kind}</td><td><${Chip} kind=${volume.state} /></td>
          <td>${bytes(volume.size_bytes)}</td><td>${volume.image_digest && html`<code title=${volume.image_digest}>${short(volume.image_digest)}</code>`}</td>
          <td>${volume.job_id && html`<a href=${`#/jobs/${volume.job_id}`}>${short(volume.job_id)}</a>`}</td></tr>`)}</tbody></table></div>`}</section>`;
}
