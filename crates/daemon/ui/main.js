// The frame: who looks, at what, and whether the daemon is there.
import { html, render, useEffect, useState } from './preact.js';
import { call, token } from './api.js';
import { Cache } from './cache.js';
import { Fleet } from './fleet.js';
import { Host } from './host.js';
import { Job } from './job.js';
import { Jobs, doTo } from './jobs.js';
import { Problem, useStore } from './parts.js';
import { Provision } from './provision.js';
import { store } from './store.js';
import { Volumes } from './volumes.js';

const VIEWS = { __proto__: null,  jobs: 'Jobs', provision: 'Provision', cache: 'Cache', volumes: 'Volumes', fleet: 'Fleet', host: 'Host' };
const THEMES = { '': 'Theme: system', light: 'Theme: light', dark: 'Theme: dark' };

function useRoute() {
  const read = () => location.hash.replace(/^#\/?/, '').split('/');
  const [route, set] = useState(read());
  useEffect(() => {
    const changed = () => set(read());
    window.addEventListener('hashchange', changed);
    return () => window.removeEventListener('hashchange', changed);
  }, []);
  return route;
}

function SignIn({ onDone }) {
  const [value, setValue] = useState('');
  const [problem, setProblem] = useState(null);
  const send = async (event) => {
    event.preventDefault();
    token.set(value.trim());
    try {
      await call('GET', '/api/v1/jobs?limit=1');
      onDone();
    } catch (error) {
      token.clear();
      setProblem(error);
    }
  };
  return html`<main class="sign-in"><form onSubmit=${send}><h1>Volume provisioner</h1>
    <p class="dim">A token of the daemon's tokens file. It is kept in this tab only.</p><${Problem} error=${problem} />
    <label class="field"><span class="field-label">Token</span>
      <input type="password" required autocomplete="off" value=${value} onInput=${(event) => setValue(event.target.value)} autofocus /></label>
    <button type="submit" class="primary">Sign in</button></form></main>`;
}

function Theme() {
  const [theme, setTheme] = useState(localStorage.getItem('lvp-theme') ?? '');
  useEffect(() => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    localStorage.setItem('lvp-theme', theme);
  }, [theme]);
  return html`<select aria-label="Theme" value=${theme} onChange=${(event) => setTheme(event.target.value)}>
    ${Object.entries(THEMES).map(([value, label]) => html`<option value=${value}>${label}</option>`)}</select>`;
}

function App() {
  const news = useStore();
  const [view = 'jobs', id] = useRoute();
  const [toasts, setToasts] = useState([]);
  const [entered, enter] = useState(null); // null: not known yet
  const [inFleet, setInFleet] = useState(false);
  const say = (text, kind = 'info') => {
    const key = Math.random();
    setToasts((old) => [...old.slice(-3), { key, text, kind }]);
    setTimeout(() => setToasts((old) => old.filter((toast) => toast.key !== key)), 6000);
  };
  const act = async (how, job) => {
    try {
      const told = await doTo(how, job);
      if (told) say(told);
    } catch (error) {
      say(error.message, 'error');
    }
  };
  // Where nobody is asked for a token, or a client certificate speaks, it goes on at once.
  useEffect(() => {
    call('GET', '/api/v1/jobs?limit=1').then(() => enter(true), (error) => enter(error.status === 0 || error.status >= 500));
  }, []);
  useEffect(() => {
    if (!entered) return undefined;
    store.onend = (job, known) => {
      if (known && known.status !== job.status) say(`${job.volume_name ?? 'An image'}: ${job.status}`, job.status === 'failed' ? 'error' : 'info');
    };
    store.start();
    call('GET', '/api/v1/host').then((host) => setInFleet(Boolean(host.fleet)), () => {});
    return () => store.stop();
  }, [entered]);
  useEffect(() => { if (news.link === 'denied') enter(false); }, [news.link]);
  useEffect(() => { document.title = `${VIEWS[view] ?? 'Jobs'} · Volume provisioner`; }, [view]);

  if (entered === null) return html`<p class="loading">Loading…</p>`;
  if (!entered) return html`<${SignIn} onDone=${() => { news.link = 'connecting'; enter(true); }} />`;
  const leave = () => { token.clear(); enter(false); };
  const page = {
    __proto__: null,
    jobs: () => (id ? html`<${Job} id=${id} act=${act} />` : html`<${Jobs} act=${act} />`),
    provision: () => html`<${Provision} say=${say} />`, cache: () => html`<${Cache} say=${say} />`,
    volumes: () => html`<${Volumes} />`, fleet: () => html`<${Fleet} />`, host: () => html`<${Host} />`,
  }[view || 'jobs'];
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById('main').focus(); }}>To the content</a>
    <header><strong class="brand">Volume provisioner</strong>
      <nav aria-label="Views">${Object.entries(VIEWS).filter(([name]) => name !== 'fleet' || inFleet).map(([name, label]) => html`<a href=${`#/${name}`} aria-current=${(view || 'jobs') === name ? 'page' : undefined}>${label}</a>`)}</nav>
      <span class="spacer"></span><span class=${`link-state ${news.link}`} role="status">${{ live: 'live', connecting: 'connecting…', paused: 'paused', offline: 'offline' }[news.link]}</span>
      <${Theme} />${token.get() && html`<button type="button" onClick=${leave}>Sign out</button>`}</header>
    ${news.link === 'offline' && html`<div class="banner" role="alert">${news.problem?.status ? `${news.problem.message}. ` : 'The daemon does not answer; '}This page goes on by itself when that is over. What is shown may be old.</div>`}
    <main id="main" tabindex="-1">${page ? page() : html`<p class="empty">There is no such view. <a href="#/jobs">To the jobs</a></p>`}</main>
    <div class="toasts" role="status" aria-live="polite">${toasts.map((toast) => html`<div key=${toast.key} class=${`toast ${toast.kind}`}>${toast.text}</div>`)}</div>`;
}

render(html`<${App} />`, document.getElementById('app'));
