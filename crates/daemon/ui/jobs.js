// All jobs, newest first: as many rows are drawn as are in view.
import { html, useEffect, useLayoutEffect, useRef, useState } from './preact.js';
import { call } from './api.js';
import { percent, short } from './format.js';
import { Chip, Empty, PRIORITIES, Problem, Progress, Time, useNow, useStore } from './parts.js';
import { ended } from './store.js';

const ROW = 52;
const STATES = ['pending', 'running', 'completed', 'failed', 'cancelled'];
const PERIODS = { hour: 3600e3, day: 86400e3, week: 7 * 86400e3 };

export function Jobs({ act }) {
  const store = useStore();
  const now = useNow();
  const [chosen, choose] = useState(new Set());
  const [view, setView] = useState({ first: 0, count: 30 });
  const scroller = useRef(null);

  const look = () => {
    const box = scroller.current;
    if (!box) return;
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 8);
    const count = Math.ceil(box.clientHeight / ROW) + 16;
    setView((old) => (old.first === first && old.count === count ? old : { first, count }));
    if (first + count + 50 > store.jobs.length) store.more();
  };
  useLayoutEffect(look, [store.jobs.length]);
  useEffect(() => {
    window.addEventListener('resize', look);
    return () => window.removeEventListener('resize', look);
  }, []);

  const toggle = (id) => choose((old) => {
    const next = new Set(old);
    if (!next.delete(id)) next.add(id);
    return next;
  });
  // What is chosen is what is seen to be chosen.
  useEffect(() => choose(new Set()), [store.filter]);
  const picked = [...chosen].map((id) => store.job(id)).filter(Boolean);
  const stoppable = picked.filter((job) => !ended(job));
  const retriable = picked.filter((job) => ['failed', 'cancelled'].includes(job.status));
  const all = async (jobs, how) => {
    for (const job of jobs) await act(how, job);
    choose(new Set());
  };

  const rows = store.jobs.slice(view.first, view.first + view.count);
  return html`<section class="jobs" aria-labelledby="jobs-title">
    <div class="head"><h1 id="jobs-title">Jobs <span class="dim">${store.total.toLocaleString()}</span></h1>
      <a class="button primary" href="#/provision">Provision a volume</a></div>
    <${Filters} store=${store} />
    ${picked.length > 0 && html`<div class="bulk" role="group" aria-label="Chosen jobs"><span>${picked.length} chosen</span>
      <button type="button" disabled=${!stoppable.length} onClick=${() => all(stoppable, 'cancel')}>Cancel ${stoppable.length}</button>
      <button type="button" disabled=${!retriable.length} onClick=${() => all(retriable, 'retry')}>Retry ${retriable.length}</button>
      <button type="button" onClick=${() => choose(new Set())}>Choose none</button></div>`}
    <${Problem} error=${store.link === 'live' && store.problem} retry=${() => store.reload()} />
    <div class="scroller" ref=${scroller} onScroll=${look} tabindex="0" role="table" aria-label="Jobs" aria-rowcount=${store.total + 1}>
      <div class="row row-head" role="row" aria-rowindex="1">
        <span role="columnheader"><span class="hidden">Chosen</span></span><span role="columnheader">State</span>
        <span role="columnheader">Volume and image</span><span role="columnheader">Progress</span>
        <span role="columnheader" class="wide">Accepted</span><span role="columnheader"><span class="hidden">Actions</span></span></div>
      <div role="rowgroup" class="rows" style=${{ height: `${store.jobs.length * ROW}px` }}>
        ${rows.map((job, at) => html`<${Row} key=${job.job_id} job=${job} index=${view.first + at} now=${now} act=${act}
          chosen=${chosen.has(job.job_id)} toggle=${toggle} />`)}</div>
      ${!store.jobs.length && html`<div role="rowgroup"><div role="row"><div role="cell">${store.loading
        ? html`<p class="empty" aria-busy="true">Reading the jobs…</p>`
        : Object.keys(store.filter).length
          ? html`<${Empty}>No job is like that. <button type="button" class="link" onClick=${() => { store.period = ''; store.setFilter({}); }}>Show all</button></${Empty}>`
          : html`<${Empty}>No jobs yet. <a href="#/provision">Provision the first volume</a>, or let your orchestrator do it.</${Empty}>`}</div></div></div>`}
    </div></section>`;
}

function Row({ job, index, now, act, chosen, toggle }) {
  const name = job.volume_name ?? 'to the cache';
  return html`<div class=${`row ${chosen ? 'chosen' : ''}`} role="row" aria-rowindex=${index + 2} style=${{ top: `${index * ROW}px` }}>
    <span role="cell"><input type="checkbox" checked=${chosen} aria-label=${`Choose the job of ${name}`} onChange=${() => toggle(job.job_id)} /></span>
    <span role="cell"><${Chip} kind=${job.status} /></span>
    <span role="cell" class="what"><a href=${`#/jobs/${job.job_id}`} title=${job.job_id}><b>${name}</b></a>
      <span class="dim clip" title=${job.image_url}>${job.status === 'running' && html`<span class="narrow-only">${percent(job.progress?.overall_percent)} · </span>`}${job.priority !== 'normal' && job.priority && `${job.priority} priority · `}${job.image_url}</span></span>
    <span role="cell">${job.status === 'failed'
      ? html`<span class="clip error-text" title=${job.error}>${job.error}</span>` : html`<${Progress} job=${job} />`}</span>
    <span role="cell" class="wide"><${Time} value=${job.created_at} now=${now} /></span>
    <span role="cell" class="row-actions">${!ended(job)
      ? html`<button type="button" onClick=${() => act('cancel', job)} aria-label=${`Cancel the job of ${name}`}>Cancel</button>`
      : job.status !== 'completed' && html`<button type="button" onClick=${() => act('retry', job)} aria-label=${`Retry the job of ${name}`}>Retry</button>`}
    </span></div>`;
}

function Filters({ store }) {
  const [text, setText] = useState(store.filter.q ?? '');
  const timer = useRef(null);
  useEffect(() => setText(store.filter.q ?? ''), [store.filter.q]);
  const set = (change) => store.setFilter({ ...store.filter, ...change });
  const typed = (event) => {
    const { value } = event.target;
    setText(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => set({ q: value.trim() }), 250);
  };
  const since = (value) => {
    store.period = value;
    set({ since: value ? new Date(Date.now() - PERIODS[value]).toISOString() : '' });
  };
  return html`<form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
    <input type="search" placeholder="Volume, image, id, error…" aria-label="Search the jobs" value=${text} onInput=${typed} />
    <select aria-label="State" value=${store.filter.status ?? ''} onChange=${(event) => set({ status: event.target.value })}>
      <option value="">any state</option><option value="pending,running">not ended</option>
      ${STATES.map((state) => html`<option value=${state}>${state}</option>`)}</select>
    <select aria-label="Priority" value=${store.filter.priority ?? ''} onChange=${(event) => set({ priority: event.target.value })}>
      <option value="">any priority</option>${Object.keys(PRIORITIES).map((name) => html`<option value=${name}>${name}</option>`)}</select>
    <select aria-label="Accepted within" value=${store.period ?? ''} onChange=${(event) => since(event.target.value)}>
      <option value="">any time</option><option value="hour">last hour</option><option value="day">last 24 hours</option>
      <option value="week">last 7 days</option></select></form>`;
}

// Cancels or retries; what is to be told about it.
export async function doTo(how, job) {
  const name = job.volume_name ?? short(job.job_id);
  if (how === 'cancel') {
    await call('POST', `/api/v1/jobs/${job.job_id}/cancel`);
    return null; // its end is told like every job's
  }
  const { job_id: id } = await call('POST', `/api/v1/jobs/${job.job_id}/retry`);
  return `${name} is tried again by job ${short(id)}`;
}
