// Calls of the daemon's API. The page may be served below a prefix, so that every address is
// relative to this file's own: ui/api.js, one below the root.
const ROOT = new URL('..', import.meta.url);
const TOKEN = 'lvp-token';

// In this tab only: gone when it is closed, and never in an address.
export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  clear: () => sessionStorage.removeItem(TOKEN),
};

export const address = (path) => new URL(path.replace(/^\//, ''), ROOT).href;

// What the daemon answered, or that it did not.
export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // 0: no answer
  }
}

export const headers = (more) => {
  const found = token.get();
  return found ? { ...more, authorization: `Bearer ${found}` } : { ...more };
};

// What a header can hold: anything else never leaves the browser.
export const fitsHeader = (text) => /^[\x20-\x7e]*$/.test(text);

async function request(method, path, { body, more, signal } = {}) {
  if (!fitsHeader(token.get() ?? '')) {
    throw new Failure(401, 'The token has characters that no token of the daemon has: copy it again');
  }
  try {
    return await fetch(address(path), {
      method,
      body,
      signal,
      headers: headers(more),
      cache: 'no-store',
      credentials: 'same-origin', // client certificates; there are no cookies
      redirect: 'error',
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure(0, 'The daemon does not answer');
  }
}

export async function failure(response) {
  let text = '';
  try {
    text = await response.text();
    const body = JSON.parse(text);
    text = body.message ?? body.error ?? text;
  } catch { /* told as it is */ }
  return new Failure(response.status, String(text).slice(0, 4000) || `The answer was ${response.status}`);
}

export async function call(method, path, body, options = {}) {
  const more = body === undefined ? {} : { 'content-type': 'application/json' };
  const response = await request(method, path, {
    ...options, more, body: body === undefined ? undefined : JSON.stringify(body),
  });
  // Readiness says with 503 and a whole answer that something is down.
  if (!response.ok && !options.any) throw await failure(response);
  return response.json();
}

// Server-sent events by fetch, as EventSource sends no credential. Ends with the stream.
export async function follow(path, lastId, signal, onOpen, onEvent) {
  const more = { accept: 'text/event-stream' };
  if (lastId) more['last-event-id'] = lastId;
  const response = await request('GET', path, { more, signal });
  if (!response.ok) throw await failure(response);
  onOpen();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { event: 'message', data: '', id: undefined };
      for (const line of block.split('\n')) {
        const colon = line.indexOf(':');
        if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, '');
      }
      if (event.data) onEvent(event);
    }
  }
}
