// What several views are made of.
import { html, useEffect, useRef, useState } from './preact.js';
import { exact, ago, percent, rate, seconds } from './format.js';
import { store } from './store.js';

// What to do about a problem; what stands between backticks is a command or a name.
export const Remedy = ({ text }) => text && html`<p class="remedy"><b>What to do:</b> ${text.split('`')
  .map((part, index) => (index % 2 ? html`<code>${part}</code>` : part))}</p>`;

// Draws anew when the store has news.
export function useStore() {
  const [, draw] = useState(0);
  useEffect(() => store.subscribe(() => draw((count) => count + 1)), []);
  return store;
}

// The time, by the second or so.
export function useNow(interval = 1000) {
  const [now, set] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => set(Date.now()), interval);
    return () => clearInterval(timer);
  }, [interval]);
  return now;
}

// Something that is read now and then: { data, problem, reload }.
export function useRead(read, interval) {
  const [state, set] = useState({ data: undefined, problem: null });
  const alive = useRef(true);
  const reload = async () => {
    try {
      const data = await read();
      if (alive.current) set({ data, problem: null });
    } catch (problem) {
      if (alive.current) set((old) => ({ ...old, problem }));
    }
  };
  useEffect(() => {
    alive.current = true;
    reload();
    const timer = interval && setInterval(() => { if (!document.hidden) reload(); }, interval);
    return () => { alive.current = false; clearInterval(timer); };
  }, []);
  return { ...state, reload };
}

export const Time = ({ value, now }) => html`<time dateTime=${value} title=${exact(value)}>${ago(value, now)}</time>`;

export const Chip = ({ kind, children }) => html`<span class=${`chip chip-${kind}`}>${children ?? kind}</span>`;

export function Bar({ value, label, state }) {
  const width = Math.max(0, Math.min(100, value ?? 0));
  return html`<div class=${`bar bar-${state ?? 'running'}`} role="progressbar" aria-label=${label}
    aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.floor(width)}>
    <div class="bar-fill" style=${{ width: `${width}%` }}></div></div>`;
}

// What a job waits for while it repeats something that failed, or is paused.
const WAITS_FOR = { __proto__: null, object_store: 'the object store', storage: "the daemon's database and cache", slot: 'its slot, which a job of high priority has' };

export const Waiting = ({ waiting, now }) => html`<div class="waiting" role="status"><strong>Waits for ${WAITS_FOR[waiting.for] ?? waiting.for}</strong>
  <p>Since <${Time} value=${waiting.since} now=${now} />${waiting.attempt > 0 && `; ${waiting.attempt === 1 ? '1 attempt has' : `${waiting.attempt} attempts have`} failed`}. It goes on by itself when that is over.</p>
  <p class="said">${waiting.reason}</p></div>`;

export function ahead({ count, least }) {
  if (least) return `at least ${count} ahead in the queue`;
  return count ? `${count} ahead in the queue` : 'next in the queue';
}

export function Progress({ job }) {
  const { progress } = job;
  if (job.status === 'pending') {
    return html`<span class="dim">${ahead(store.position(job))}</span>`;
  }
  if (!progress) return html`<span class="dim">–</span>`;
  const speed = store.rates.get(job.job_id);
  return html`<div class="progress">
    <${Bar} value=${progress.overall_percent} state=${job.status} label=${`Progress of ${job.volume_name ?? 'the image'}`} />
    <span class="progress-text">${percent(progress.overall_percent)}
      ${job.waiting ? html` · <span class="warn-text" title=${job.waiting.reason}>waits for ${WAITS_FOR[job.waiting.for] ?? job.waiting.for}</span>` : job.status === 'running' && html` · ${progress.stage}${speed > 0 && ` · ${rate(speed)}`}${
        progress.overall_eta_sec !== undefined && ` · ${seconds(progress.overall_eta_sec)} left`}`}</span>
  </div>`;
}

export const TYPES = { qcow2: 'qcow2', raw: 'raw (also compressed)', auto: 'auto: by content', vmdk: 'VMDK', vhd: 'VHD', vhdx: 'VHDX', vdi: 'VDI' };

export const TypeOptions = () => Object.entries(TYPES).map(([value, label]) => html`<option value=${value}>${label}</option>`);

export const PRIORITIES = { high: 'high: before all others', normal: 'normal', low: 'low: when nothing else waits' };

export const PriorityOptions = () => Object.entries(PRIORITIES).map(([value, label]) => html`<option value=${value}>${label}</option>`);

export const Problem = ({ error, retry }) => error && html`<div class="problem" role="alert">
  <strong>${error.status === 403 ? 'Not permitted' : error.status === 0 ? 'No answer' : 'Not done'}</strong>
  <p>${error.message}</p>
  ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}</div>`;

export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

export function Field({ label, hint, children }) {
  return html`<label class="field"><span class="field-label">${label}</span>${children}
    ${hint && html`<span class="hint">${hint}</span>`}</label>`;
}

export function Copy({ text, label }) {
  const [done, set] = useState(false);
  const shown = useRef(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Over plain HTTP there is no clipboard but this older way.
      getSelection().selectAllChildren(shown.current);
      if (!document.execCommand('copy')) return;
    }
    set(true);
    setTimeout(() => set(false), 1500);
  };
  return html`<div class="code"><div class="code-head"><span>${label}</span>
    <button type="button" onClick=${copy} aria-label=${`Copy for ${label}`}>${done ? 'Copied' : 'Copy'}</button></div>
    <pre tabindex="0" ref=${shown}>${text}</pre></div>`;
}

// Asks before something that cannot be undone.
export function Confirm({ question, action, onYes, onNo }) {
  const dialog = useRef(null);
  useEffect(() => { dialog.current.showModal(); }, []);
  return html`<dialog ref=${dialog} onCancel=${onNo} aria-label=${question}>
    <p>${question}</p>
    <div class="actions"><button type="button" onClick=${onNo} autofocus>Keep</button>
      <button type="button" class="danger" onClick=${onYes}>${action}</button></div></dialog>`;
}
