// The course of one job: what bounded it, when its stages ran, how fast its bytes moved, and its log.
import { html, useEffect, useRef, useState } from './preact.js';
import { call } from './api.js';
import { bytes, clock, exact, rate, seconds } from './format.js';
import { Problem } from './parts.js';
import { ended } from './store.js';

const CAUSES = { __proto__: null, network: 'network', cpu: 'CPU', device: 'device', limit: 'limit', queue: 'queue', guests: 'guests' };
const LANES = ['queued', 'initializing', 'downloading', 'converting', 'finalizing', 'waiting'];
const SERIES = { downloaded: 'download', decoded: 'decode', written: 'write' };
const POLL_MS = 1000;

// Reads something of a job again and again while it runs, and once more at its end.
function useCourse(job, read) {
  const [problem, setProblem] = useState(null);
  const over = ended(job);
  useEffect(() => {
    let timer;
    let alive = true;
    const look = async () => {
      try {
        await read(() => alive);
        if (alive) setProblem(null);
      } catch (error) {
        if (alive) setProblem(error);
      }
      if (alive && !over) timer = setTimeout(look, document.hidden ? 5 * POLL_MS : POLL_MS);
    };
    look();
    return () => { alive = false; clearTimeout(timer); };
  }, [job.job_id, over]);
  return problem;
}

export function Course({ job }) {
  const [found, set] = useState(null);
  const problem = useCourse(job, async (alive) => {
    const timeline = await call('GET', `/api/v1/jobs/${encodeURIComponent(job.job_id)}/timeline`);
    if (alive()) set(timeline);
  });
  if (!found || found.job_id !== job.job_id) return problem && html`<${Problem} error=${problem} />`;
  return html`<${Bound} found=${found} /><${Stages} stages=${found.stages ?? []} />${found.rates && html`<${Speeds} rates=${found.rates} />`}`;
}

function Bound({ found }) {
  const { bound } = found;
  if (!bound) return null;
  const shares = Object.entries(CAUSES).map(([cause, label]) => [cause, label, bound[cause] ?? 0]);
  return html`<section aria-label="What bounded it"><h2>What bounded it</h2>
    <div class="shares" aria-hidden="true">${shares.filter(([, , share]) => share > 0).map(([cause, , share]) => html`<span key=${cause} class=${`share-${cause}`} style=${{ width: `${share}%` }}></span>`)}</div>
    <ul class="legend">${shares.map(([cause, label, share]) => html`<li key=${cause}><span class=${`dot share-${cause}`}></span>${label} <b>${Number(share).toFixed(0)} %</b></li>`)}</ul>
    <p>${found.explanation}.</p>${found.advice && html`<p class="dim"><b>To make it faster:</b> ${found.advice}.</p>`}</section>`;
}

function Stages({ stages }) {
  if (!stages.length) return null;
  const now = Math.max(...stages.map((time) => time.end_sec ?? time.begin_sec));
  // What runs still, runs until now; the next reading tells when that is.
  const length = Math.max(now, 0.001);
  const lanes = LANES.filter((lane) => stages.some((time) => time.stage === lane));
  return html`<section aria-label="Time line"><h2>Time line <span class="dim">${length < 10 ? `${length.toFixed(1)} s` : seconds(length)}</span></h2><ol class="lanes">${lanes.map((lane) => {
    const times = stages.filter((time) => time.stage === lane);
    const told = times.map(({ begin_sec: from, end_sec: to }) => `${from.toFixed(1)} s to ${to === undefined ? 'now' : `${to.toFixed(1)} s`}`).join(', ');
    return html`<li key=${lane}><span class="lane-name">${lane}</span><span class="lane" title=${told}><span class="hidden">${told}</span>${times.map(({ begin_sec: from, end_sec: to }) => html`<span class=${`span lane-${lane}`}
      style=${{ left: `${(100 * from) / length}%`, width: `${Math.max(0.3, (100 * ((to ?? length) - from)) / length)}%` }}></span>`)}</span></li>`;
  })}</ol></section>`;
}

function Speeds({ rates }) {
  const series = Object.keys(SERIES).map((name) => [name, (rates[name] ?? []).map((count) => count / rates.interval_sec)]);
  const count = series[0][1].length;
  if (count < 2) return null;
  const top = Math.max(...series.flatMap(([, values]) => values), 1);
  const line = (values) => values.map((value, at) => `${((at / (count - 1)) * 600).toFixed(1)},${(118 - (value / top) * 112).toFixed(1)}`).join(' ');
  const told = series.map(([name, values]) => {
    const all = (rates[name] ?? []).reduce((sum, value) => sum + value, 0);
    return [name, `${SERIES[name]} ${bytes(all)}, at most ${rate(Math.max(...values))}`];
  });
  return html`<section aria-label="Rates"><h2>Rates</h2><figure class="plot"><svg viewBox="0 0 600 120" role="img" aria-label=${`Rates over time: ${told.map(([, text]) => text).join('; ')}`} preserveAspectRatio="none">
    ${series.map(([name, values]) => html`<polyline key=${name} points=${line(values)} class=${`plot-line plot-${name}`} />`)}</svg>
    <figcaption><ul class="legend">${told.map(([name, text]) => html`<li key=${name}><span class=${`dot dot-${name}`}></span>${text}</li>`)}</ul>
      One point for ${seconds(rates.interval_sec) === '0 s' ? `${rates.interval_sec} s` : seconds(rates.interval_sec)}; the top is ${rate(top)}.</figcaption></figure></section>`;
}

export function Log({ job }) {
  const [lines, set] = useState([]);
  const [cut, setCut] = useState(0);
  const box = useRef(null);
  const known = useRef({ id: null, lines: [] });
  const problem = useCourse(job, async (alive) => {
    if (known.current.id !== job.job_id) known.current = { id: job.job_id, lines: [] };
    const after = known.current.lines.at(-1)?.number;
    const log = await call('GET', `/api/v1/jobs/${encodeURIComponent(job.job_id)}/log${after === undefined ? '' : `?after=${after}`}`);
    if (!alive()) return;
    known.current.lines = [...known.current.lines, ...log.lines].slice(-1000);
    set(known.current.lines);
    setCut(log.cut);
  });
  // At the end, it stays at the end.
  useEffect(() => {
    const element = box.current;
    if (element && element.scrollHeight - element.scrollTop - element.clientHeight < 120) element.scrollTop = element.scrollHeight;
  }, [lines.length]);
  return html`<section aria-label="Log"><h2>Log</h2><${Problem} error=${problem} />
    ${!lines.length && !problem ? html`<p class="dim">Nothing was logged about this job.</p>` : html`<div class="log" tabindex="0" role="log" aria-label="Lines of the log" aria-live="off" ref=${box}><ol>${lines.map((line, at) => {
      const missing = at > 0 ? line.number - lines[at - 1].number - 1 : 0;
      return html`${missing > 0 && html`<li class="dim">… ${missing} lines were cut: the first and the last are kept</li>`}<li key=${line.number} class=${`level-${line.level}`}>
        <time dateTime=${line.time} title=${exact(line.time)}>${clock(line.time)}</time> <b>${line.level}</b> ${line.text}</li>`;
    })}</ol></div>`}${cut > 0 && html`<p class="dim">${cut} lines were cut.</p>`}</section>`;
}
