// The images that are on this host already.
import { html, useState } from './preact.js';
import { call } from './api.js';
import { bytes, short } from './format.js';
import { Chip, Confirm, Empty, Problem, Time, TypeOptions, useNow, useRead } from './parts.js';

export function Cache({ say }) {
  const now = useNow(10000);
  const { data, problem, reload } = useRead(() => call('GET', '/api/v1/cache/images?limit=1000'), 5000);
  const golden = useRead(() => call('GET', '/api/v1/golden'), 5000);
  const [asked, ask] = useState(null);
  const [failed, setFailed] = useState(null);
  const [url, setUrl] = useState('');
  const [type, setType] = useState('qcow2');
  const attempt = async (action) => {
    setFailed(null);
    try { await action(); } catch (error) { setFailed(error); }
    reload();
    golden.reload();
  };
  const drop = (volume) => attempt(async () => {
    ask(null);
    await call('DELETE', `/api/v1/golden/${volume.key}`);
    say(`The golden volume of ${short(volume.key)} is deleted`);
  });
  const remove = (image) => attempt(async () => {
    ask(null);
    await call('DELETE', `/api/v1/cache/images/${image.key}`);
    say(`${short(image.key)} is deleted from the cache`);
  });
  const fetchIt = (event) => {
    event.preventDefault();
    return attempt(async () => {
      const { job_id: id } = await call('POST', '/api/v1/cache/fetch', { image_url: url.trim(), image_type: type });
      setUrl('');
      say(`The image is being fetched by job ${short(id)}`);
    });
  };
  const images = data?.images ?? [];
  const total = images.reduce((sum, image) => sum + image.size, 0);
  return html`<section><div class="head"><h1>Cache <span class="dim">${data && `${images.length} images, ${bytes(total)}`}</span></h1></div>
    <${Problem} error=${failed ?? problem} retry=${failed ? undefined : reload} />
    <form class="filters" onSubmit=${fetchIt}><input required aria-label="Image to fetch" placeholder="s3://images/debian-12.qcow2" value=${url}
        onInput=${(event) => setUrl(event.target.value)} spellcheck="false" />
      <select aria-label="Format" value=${type} onChange=${(event) => setType(event.target.value)}><${TypeOptions} /></select>
      <button type="submit">Fetch into the cache</button></form>
    ${!data ? html`<p class="empty" aria-busy="true">Reading the cache…</p>` : !images.length ? html`<${Empty}>The cache is empty: the first job of an image fills it.</${Empty}>`
      : html`<div class="table-box" tabindex="0" role="region" aria-label="Cached images"><table><thead><tr><th>Image</th><th>Size</th><th>Last used</th><th>Digest</th><th><span class="hidden">Actions</span></th></tr></thead>
        <tbody>${images.map((image) => html`<tr key=${image.key}><td class="break">${image.image_url}</td><td>${bytes(image.size)}</td>
          <td><${Time} value=${image.last_used} now=${now} /></td><td><code title=${image.checksum}>${short(image.checksum)}</code>
            ${image.in_use && html` <${Chip} kind="running">in use</${Chip}>`}${image.golden && html` <${Chip} kind="ready">golden</${Chip}>`}${image.unpacked_bytes > 0 && html` <span title="Unpacked copy beside it, from which volumes are copied without decoding"><${Chip} kind="ready">unpacked: ${bytes(image.unpacked_bytes)}</${Chip}></span>`}</td>
          <td><button type="button" disabled=${image.in_use} aria-label=${`Delete ${image.image_url} from the cache`} onClick=${() => ask(image)}>Delete</button></td></tr>`)}</tbody></table></div>`}
    <${Golden} ...${golden} now=${now} ask=${ask} />
    ${asked?.image_type && html`<${Confirm} question=${`Delete the golden volume of ${asked.image_url || short(asked.key)}? Its clones stay as they are; the next job of the image makes it anew.`}
      action="Delete" onYes=${() => drop(asked)} onNo=${() => ask(null)} />`}
    ${asked && !asked.image_type && html`<${Confirm} question=${`Delete ${asked.image_url} (${bytes(asked.size)}) from the cache? The next job of it fetches it again.`}
      action="Delete" onYes=${() => remove(asked)} onNo=${() => ask(null)} />`}</section>`;
}

// What volumes are cloned from.
function Golden({ data, problem, now, ask }) {
  const volumes = data?.volumes ?? [];
  return html`<h2>Golden volumes <span class="dim">${data && volumes.length}</span></h2>
    <${Problem} error=${problem} />
    ${!data ? html`<p class="empty" aria-busy="true">Reading the golden volumes…</p>`
      : !volumes.length ? html`<${Empty}>${data.unavailable ? `Volumes are not cloned: ${data.unavailable}.` : 'There are none yet: the first job of an image makes its golden volume, and further volumes are cloned from it.'}</${Empty}>`
      : html`<div class="table-box" tabindex="0" role="region" aria-label="Golden volumes"><table><thead><tr><th>Image</th><th>Disk</th><th>Takes</th><th>Clones</th><th>Last used</th><th>Digest</th><th><span class="hidden">Actions</span></th></tr></thead>
        <tbody>${volumes.map((volume) => html`<tr key=${volume.key + volume.image_type}><td class="break" title=${volume.path}>${volume.image_url || '–'}</td><td>${volume.disk_bytes !== undefined && bytes(volume.disk_bytes)}</td>
          <td>${volume.own_bytes !== undefined && bytes(volume.own_bytes)}</td><td>${volume.clones}</td><td>${volume.last_used && html`<${Time} value=${volume.last_used} now=${now} />`}</td>
          <td><code title=${volume.key}>${short(volume.key)}</code>${volume.in_use ? html` <${Chip} kind="running">in use</${Chip}>` : volume.flaw && html` <span class="dim">not used: ${volume.flaw}</span>`}</td>
          <td><button type="button" disabled=${volume.in_use} aria-label=${`Delete the golden volume of ${volume.image_url || short(volume.key)}`} onClick=${() => ask(volume)}>Delete</button></td></tr>`)}</tbody></table></div>`}`;
}
