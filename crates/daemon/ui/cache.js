// The images that are on this host already.
import { html, useState } from './preact.js';
import { call } from './api.js';
import { bytes, short } from './format.js';
import { Chip, Confirm, Empty, Problem, Time, TypeOptions, useNow, useRead } from './parts.js';

export function Cache({ say }) {
  const now = useNow(10000);
  const { data, problem, reload } = useRead(() => call('GET', '/api/v1/cache/images?limit=1000'), 5000);
  const [asked, ask] = useState(null);
  const [failed, setFailed] = useState(null);
  const [url, setUrl] = useState('');
  const [type, setType] = useState('qcow2');
  const attempt = async (action) => {
    setFailed(null);
    try { await action(); } catch (error) { setFailed(error); }
    reload();
  };
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
            ${image.in_use && html` <${Chip} kind="running">in use</${Chip}>`}</td>
          <td><button type="button" disabled=${image.in_use} aria-label=${`Delete ${image.image_url} from the cache`} onClick=${() => ask(image)}>Delete</button></td></tr>`)}</tbody></table></div>`}
    ${asked && html`<${Confirm} question=${`Delete ${asked.image_url} (${bytes(asked.size)}) from the cache? The next job of it fetches it again.`}
      action="Delete" onYes=${() => remove(asked)} onNo=${() => ask(null)} />`}</section>`;
}
