// The orders of a fleet that have arrived on this host.
import { html, useState } from './preact.js';
import { call } from './api.js';
import { bytes, exact, rate, short } from './format.js';
import { Bar, Chip, Empty, Problem, Remedy, Time, useNow, useRead } from './parts.js';

const LIMIT = 200;
// How each state looks.
const KINDS = {
  __proto__: null, seen: 'pending', waiting: 'pending', running: 'running', cached: 'completed', existing: 'completed', done: 'completed',
  failed: 'failed', refused: 'failed', unsupported: 'failed', cancelled: 'cancelled', expired: 'cancelled',
};

function done(order) {
  if (order.bytes_total > 0) return (100 * order.bytes) / order.bytes_total;
  return order.jobs > 0 ? (100 * order.jobs_ended) / order.jobs : 0;
}

function What({ asks }) {
  if (!asks) return html`<span class="dim">A form of orders that this release does not know</span>`;
  return html`${asks.action === 'cancel' ? 'cancelled; it was to ' : ''}${asks.kind} <code title=${asks.image_digest}>${short(asks.image_digest)}</code>
    ${asks.volumes > 0 && html` to ${asks.volumes} ${asks.volumes === 1 ? 'volume' : 'volumes'}`}
    <div class="dim break">${asks.image_url}</div>
    <div class="dim">for ${asks.target}, by ${asks.issuer}, until ${exact(asks.deadline)}${asks.hosts_at_once && `, ${asks.hosts_at_once} at once`}${asks.bytes_per_sec && `, at most ${rate(asks.bytes_per_sec)}`}</div>`;
}

export function Fleet() {
  const now = useNow(5000);
  const { data, problem, reload } = useRead(() => call('GET', `/api/v1/fleet?limit=${LIMIT}`), 5000);
  const [text, setText] = useState('');
  const orders = (data?.orders ?? []).filter((order) => order.id.toLowerCase().includes(text.trim().toLowerCase()));
  return html`<section><div class="head"><h1>Fleet ${data && html`<${Chip} kind=${data.connected ? 'up' : 'degraded'}>${data.connected ? 'connected' : 'not connected'}</${Chip}>`}</h1></div>
    <${Problem} error=${problem} retry=${reload} />
    ${data && html`<p class="dim">This host is ${data.host}${data.groups.length > 0 && `, in ${data.groups.join(', ')}`}; it follows orders to ${data.allow.join(', ')}.
      ${!data.connected && ' Orders that have arrived go on without the broker.'}</p>`}
    <div class="filters"><input type="search" aria-label="Search the orders" placeholder="Order…" value=${text} onInput=${(event) => setText(event.target.value)} /></div>
    ${!data ? !problem && html`<p class="empty" aria-busy="true">Reading the orders…</p>` : !orders.length ? html`<${Empty}>${data.orders.length ? 'No order is called so.' : 'No order has arrived yet.'}</${Empty}>`
      : html`<div class="table-box" tabindex="0" role="region" aria-label="Orders"><table><thead><tr><th>Order</th><th>State</th><th>Progress</th><th>What it asks for</th><th>Arrived</th></tr></thead>
        <tbody>${orders.map((order) => html`<tr key=${order.id}><td class="break">${order.id}<div class="dim">revision ${order.revision}${order.signer && `, signed by ${order.signer}`}</div></td>
          <td><${Chip} kind=${KINDS[order.state] ?? 'pending'}>${order.state}</${Chip}>${order.ended && !order.reported && html`<div class="dim">the broker does not know yet</div>`}
            ${order.reason && html`<div class=${`break ${order.ended && KINDS[order.state] !== 'completed' ? 'error-text' : 'dim'}`}>${order.reason}</div>`}<${Remedy} text=${order.remedy} /></td>
          <td>${order.jobs > 0 && html`<${Bar} value=${done(order)} state=${KINDS[order.state]} label=${`Progress of ${order.id}`} />
            <span class="progress-text">${order.jobs_ended} of ${order.jobs} ${order.jobs === 1 ? 'job' : 'jobs'}${order.jobs_failed > 0 && `, ${order.jobs_failed} failed`}${order.bytes > 0 && `, ${bytes(order.bytes)}`}${!order.ended && order.bytes_per_second > 0 && ` · ${rate(order.bytes_per_second)}`}</span>`}
            ${order.job_id && html`<div><a href=${`#/jobs/${order.job_id}`}>${short(order.job_id)}</a></div>`}</td>
          <td><${What} asks=${order.asks} /></td><td><${Time} value=${order.received_at} now=${now} /></td></tr>`)}</tbody></table></div>`}
    ${data && data.total > data.orders.length && html`<p class="dim">The last ${data.orders.length} of ${data.total} are shown and searched.</p>`}</section>`;
}
