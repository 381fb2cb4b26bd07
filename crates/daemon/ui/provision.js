// Asking for a volume, and writing a small file to one of libvirt's.
import { html, useEffect, useRef, useState } from './preact.js';
import { Failure, address, call, fitsHeader, headers } from './api.js';
import { bytes, exact, seconds } from './format.js';
import { Bar, Chip, Field, PriorityOptions, Problem, TypeOptions, useRead } from './parts.js';

const GIB = 2 ** 30;

export function Provision({ say }) {
  const cached = useRead(() => call('GET', '/api/v1/cache/images?limit=200'));
  const [form, setForm] = useState({ image_url: '', image_type: 'qcow2', volume_name: '', size: '10', unit: 'GiB', correlation_id: '', priority: 'normal', adopt: false });
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const [plan, setPlan] = useState(null);
  const [planning, setPlanning] = useState(false);
  const request = useRef(0); // which the plan is of
  const set = (name) => ({ target }) => {
    const value = target.type === 'checkbox' ? target.checked : target.value;
    setForm((old) => ({ ...old, [name]: value }));
    setPlan(null);
    request.current += 1;
  };
  const asked = () => {
    const factor = { MiB: 2 ** 20, GiB: GIB, TiB: 2 ** 40 }[form.unit];
    const body = {
      image_url: form.image_url.trim(), image_type: form.image_type, volume_name: form.volume_name.trim(),
      volume_size_bytes: Math.round(Number(form.size) * factor),
    };
    if (form.correlation_id.trim()) body.correlation_id = form.correlation_id.trim();
    if (form.priority !== 'normal') body.priority = form.priority;
    if (form.adopt) body.adopt = true;
    return body;
  };
  const look = async (event) => {
    if (!event.target.form.reportValidity()) return;
    const mine = ++request.current;
    setPlanning(true);
    setProblem(null);
    setPlan(null);
    try {
      const found = await call('POST', '/api/v1/plan', asked());
      if (mine === request.current) setPlan(found);
    } catch (error) {
      if (mine === request.current) setProblem(error);
    }
    setPlanning(false);
  };
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      const body = asked();
      const { job_id: id } = await call('POST', '/api/v1/jobs', body);
      say(`${body.volume_name} is being provisioned`);
      location.hash = `#/jobs/${id}`;
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  };
  return html`<section class="narrow"><h1>Provision a volume</h1>
    <form onSubmit=${send}><${Problem} error=${problem} />
      <${Field} label="Image" hint="s3://bucket/key, or the object's URL. Images in the cache are offered; s3://bucket/ lists the bucket below.">
        <input required list="images" value=${form.image_url} onInput=${set('image_url')} placeholder="s3://images/debian-12.qcow2" spellcheck="false" /></${Field}>
      <datalist id="images">${(cached.data?.images ?? []).map((image) => html`<option value=${image.image_url}>${bytes(image.size)}</option>`)}</datalist>
      <${Bucket} url=${form.image_url} choose=${(url) => { setForm((old) => ({ ...old, image_url: url })); setPlan(null); request.current += 1; }} />
      <${Field} label="Format"><select value=${form.image_type} onChange=${set('image_type')}><${TypeOptions} /></select></${Field}>
      <${Field} label="Volume" hint="Its name, by LVM's rules. One that is there already is rewritten, if it is this program's.">
        <input required value=${form.volume_name} onInput=${set('volume_name')} pattern="[A-Za-z0-9+_.\\-]+" maxlength="127" spellcheck="false" /></${Field}>
      <div class="pair"><${Field} label="Size"><input required type="number" min="0.001" step="any" value=${form.size} onInput=${set('size')} /></${Field}>
        <${Field} label="Unit"><select value=${form.unit} onChange=${set('unit')}>${['MiB', 'GiB', 'TiB'].map((unit) => html`<option value=${unit}>${unit}</option>`)}</select></${Field}></div>
      <${Field} label="Priority"><select value=${form.priority} onChange=${set('priority')}><${PriorityOptions} /></select></${Field}>
      <${Field} label="Correlation id" hint="Optional: comes back on the job, in logs and traces.">
        <input value=${form.correlation_id} onInput=${set('correlation_id')} maxlength="128" /></${Field}>
      <label class="check"><input type="checkbox" checked=${form.adopt} onChange=${set('adopt')} />
        <span>The volume may be one that this program did not make. <b>Its content is lost.</b></span></label>
      ${plan && html`<${Plan} plan=${plan} />`}
      <div class="actions"><button type="submit" class="primary" disabled=${busy}>${busy ? 'Sending…' : 'Provision'}</button>
        <button type="button" disabled=${planning} onClick=${look}>${planning ? 'Looking…' : 'What would happen?'}</button></div></form>
    <${Upload} say=${say} /></section>`;
}

// What lies in the folder that is being typed. A store may forbid to list it: then it is typed to the end.
function Bucket({ url, choose }) {
  const folder = (/^s3:\/\/[\w.-]+\/(?:.*\/)?/.exec(url) ?? [])[0];
  const [found, setFound] = useState(null);
  const read = async (after) => {
    const query = new URLSearchParams({ prefix: folder, ...(after && { after }) });
    try {
      const page = await call('GET', `/api/v1/images?${query}`);
      setFound((old) => (after && old?.prefix === folder ? { ...page, folders: [...old.folders, ...page.folders], images: [...old.images, ...page.images] } : page));
    } catch (error) {
      setFound({ prefix: folder, error });
    }
  };
  useEffect(() => {
    setFound(null);
    if (!folder) return undefined;
    const timer = setTimeout(() => read(), 300);
    return () => clearTimeout(timer);
  }, [folder]);
  if (!found || found.prefix !== folder) return null;
  if (found.error) return html`<p class="hint">The folder cannot be listed (${found.error.message}): type the whole URL.</p>`;
  const typed = url.slice(folder.length).toLowerCase();
  const images = found.images.filter((image) => image.image_url.slice(folder.length).toLowerCase().includes(typed));
  const folders = found.folders.filter((name) => name.slice(folder.length).toLowerCase().includes(typed));
  if (images.length === 1 && !folders.length && images[0].image_url === url) return null;
  return html`<div class="table-box bucket" tabindex="0" role="region" aria-label=${`Images in ${folder}`}><table><tbody>
    ${folders.map((name) => html`<tr key=${name}><td colspan="4"><button type="button" class="link" onClick=${() => choose(name)}>${name.slice(folder.length)}</button></td></tr>`)}
    ${images.map((image) => html`<tr key=${image.image_url}><td class="break"><button type="button" class="link" onClick=${() => choose(image.image_url)}>${image.image_url.slice(folder.length)}</button></td>
      <td>${bytes(image.size)}</td><td><time dateTime=${image.last_modified} title=${exact(image.last_modified)}>${image.last_modified.slice(0, 10)}</time></td>
      <td>${image.is_cached && html`<${Chip} kind="ready">cached</${Chip}>`} ${image.has_digest ? html`<${Chip} kind="idle">digest</${Chip}>` : html`<${Chip} kind="degraded">no digest</${Chip}>`}</td></tr>`)}
    ${!images.length && !folders.length && html`<tr><td>Nothing here begins so.</td></tr>`}</tbody></table>
    ${found.next && html`<button type="button" onClick=${() => read(found.next)}>More</button>`}</div>`;
}

const CACHE = { __proto__: null, hit: 'in the cache: nothing is fetched', miss: 'not in the cache', fetching: 'another job is fetching it' };

function Plan({ plan }) {
  const old = plan.overwrites;
  const facts = [
    ['Format', plan.format], ['Disk', plan.virtual_bytes && bytes(plan.virtual_bytes)], ['Image', CACHE[plan.cache]],
    ['Fetches', plan.cache === 'miss' && bytes(plan.bytes_to_fetch)], ['Writes', plan.bytes_to_write !== undefined && bytes(plan.bytes_to_write)],
    ['Overwrites', old && `${old.path} (${old.state}, ${bytes(old.size_bytes)})`],
    ['Begins after', plan.jobs_ahead > 0 && `${plan.jobs_ahead} other job${plan.jobs_ahead === 1 ? '' : 's'}`],
    ['Takes about', plan.expected_seconds !== undefined && seconds(plan.expected_seconds)],
    ['Digest', plan.expected_digest && `sha256:${plan.expected_digest}`],
  ];
  return html`<section class="card plan" role="status" aria-label="What would happen"><p><${Chip} kind=${plan.fits ? 'ready' : 'failed'}>${
      plan.fits ? 'can be done' : 'cannot be done'}</${Chip}></p>
    ${(plan.problems ?? []).map((text) => html`<p class="error-text">${text}</p>`)}
    ${(plan.warnings ?? []).map((text) => html`<p class="warn-text">${text}</p>`)}
    <dl>${facts.filter(([, value]) => value).map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl></section>`;
}

// XMLHttpRequest, as fetch does not tell how much of a body was sent.
function sent(file, pool, volume, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    if (![pool, volume].every(fitsHeader)) {
      reject(new Failure(400, 'The names of pool and volume go by a header, which takes ASCII alone'));
      return;
    }
    request.open('PUT', address('/api/v1/volumes/upload-content'));
    for (const [name, value] of Object.entries(headers({ 'x-volume-name': volume, 'x-pool-name': pool }))) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onProgress(event.loaded / Math.max(1, event.total));
    request.onerror = () => reject(new Failure(0, 'The daemon does not answer'));
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* told by its status */ }
      if (request.status < 300) resolve(answer);
      else reject(new Failure(request.status, answer.message ?? `The answer was ${request.status}`));
    };
    request.send(file);
  });
}

function Upload({ say }) {
  const [form, setForm] = useState({ pool: 'cloud-init', volume: '' });
  const set = (name) => ({ target: { value } }) => setForm((old) => ({ ...old, [name]: value }));
  const [part, setPart] = useState(null);
  const [problem, setProblem] = useState(null);
  const file = useRef(null);
  useEffect(() => {
    if (part === null) return undefined;
    const warn = (event) => event.preventDefault();
    window.addEventListener('beforeunload', warn);
    return () => window.removeEventListener('beforeunload', warn);
  }, [part === null]);
  const send = async (event) => {
    event.preventDefault();
    setProblem(null);
    setPart(0);
    try {
      await sent(file.current.files[0], form.pool.trim(), form.volume.trim(), setPart);
      say(`${form.volume.trim()} is written`);
    } catch (error) {
      setProblem(error);
    }
    setPart(null);
  };
  return html`<details><summary>Upload a seed image to a volume of libvirt</summary>
    <form onSubmit=${send}><${Problem} error=${problem} />
      <${Field} label="File"><input type="file" required ref=${file} /></${Field}>
      <${Field} label="Pool"><input required value=${form.pool} onInput=${set('pool')} /></${Field}>
      <${Field} label="Storage volume" hint="It must be there; its content is replaced.">
        <input required value=${form.volume} onInput=${set('volume')} /></${Field}>
      ${part !== null && html`<${Bar} value=${part * 100} label="Sent" />`}
      <button type="submit" disabled=${part !== null}>${part !== null ? 'Sending…' : 'Upload'}</button></form></details>`;
}
