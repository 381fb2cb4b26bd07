// Asking for a volume, and writing a small file to one of libvirt's.
import { html, useEffect, useRef, useState } from './preact.js';
import { Failure, address, call, headers } from './api.js';
import { bytes } from './format.js';
import { Bar, Field, Problem, useRead } from './parts.js';

const GIB = 2 ** 30;

export function Provision({ say }) {
  const cached = useRead(() => call('GET', '/api/v1/cache/images?limit=200'));
  const [form, setForm] = useState({ image_url: '', image_type: 'qcow2', volume_name: '', size: '10', unit: 'GiB', correlation_id: '', adopt: false });
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const set = (name) => ({ target }) => {
    const value = target.type === 'checkbox' ? target.checked : target.value;
    setForm((old) => ({ ...old, [name]: value }));
  };
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      const factor = { MiB: 2 ** 20, GiB: GIB, TiB: 2 ** 40 }[form.unit];
      const body = {
        image_url: form.image_url.trim(), image_type: form.image_type, volume_name: form.volume_name.trim(),
        volume_size_bytes: Math.round(Number(form.size) * factor),
      };
      if (form.correlation_id.trim()) body.correlation_id = form.correlation_id.trim();
      if (form.adopt) body.adopt = true;
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
      <${Field} label="Image" hint="s3://bucket/key, or the object's URL. Images in the cache are offered.">
        <input required list="images" value=${form.image_url} onInput=${set('image_url')} placeholder="s3://images/debian-12.qcow2" spellcheck="false" /></${Field}>
      <datalist id="images">${(cached.data?.images ?? []).map((image) => html`<option value=${image.image_url}>${bytes(image.size)}</option>`)}</datalist>
      <${Field} label="Format"><select value=${form.image_type} onChange=${set('image_type')}>
        <option value="qcow2">qcow2</option><option value="raw">raw (also compressed)</option></select></${Field}>
      <${Field} label="Volume" hint="Its name, by LVM's rules. One that is there already is rewritten, if it is this program's.">
        <input required value=${form.volume_name} onInput=${set('volume_name')} pattern="[A-Za-z0-9+_.\\-]+" maxlength="127" spellcheck="false" /></${Field}>
      <div class="pair"><${Field} label="Size"><input required type="number" min="0.001" step="any" value=${form.size} onInput=${set('size')} /></${Field}>
        <${Field} label="Unit"><select value=${form.unit} onChange=${set('unit')}>${['MiB', 'GiB', 'TiB'].map((unit) => html`<option value=${unit}>${unit}</option>`)}</select></${Field}></div>
      <${Field} label="Correlation id" hint="Optional: comes back on the job, in logs and traces.">
        <input value=${form.correlation_id} onInput=${set('correlation_id')} maxlength="128" /></${Field}>
      <label class="check"><input type="checkbox" checked=${form.adopt} onChange=${set('adopt')} />
        <span>The volume may be one that this program did not make. <b>Its content is lost.</b></span></label>
      <button type="submit" class="primary" disabled=${busy}>${busy ? 'Sending…' : 'Provision'}</button></form>
    <${Upload} say=${say} /></section>`;
}

// XMLHttpRequest, as fetch does not tell how much of a body was sent.
function sent(file, pool, volume, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
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
