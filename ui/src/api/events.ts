// Server-sent events, of a GET that goes on by itself after a break, or of a POST that runs once.

import { Problem, send } from './client';

export interface ServerEvent {
  event: string;
  id: string | null;
  data: unknown;
}

/** Events of one response, in order, until it ends. */
export async function* read(response: Response): AsyncGenerator<ServerEvent> {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let event = 'message';
  let id: string | null = null;
  let data: string[] = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r/);
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (line === '') {
          if (data.length) yield { event, id, data: parse(data.join('\n')) };
          event = 'message';
          data = [];
        } else if (!line.startsWith(':')) {
          const at = line.indexOf(':');
          const name = at < 0 ? line : line.slice(0, at);
          const text = at < 0 ? '' : line.slice(at + 1).replace(/^ /, '');
          if (name === 'event') event = text;
          else if (name === 'id') id = text;
          else if (name === 'data') data.push(text);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Events that answer a POST, such as a steered continuation. Abort to stop it. */
export async function* post(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<ServerEvent> {
  yield* read(await send('POST', path, { body, signal, accept: 'text/event-stream' }));
}

/** Events of something that goes on, such as a job or a run, to its end; connects again, after the last event it saw, when cut off. */
export async function* follow(path: string, signal: AbortSignal): AsyncGenerator<ServerEvent> {
  let last: string | null = null;
  let wait = 500;
  while (!signal.aborted) {
    try {
      for await (const event of read(await send('GET', path, { signal, accept: 'text/event-stream', last }))) {
        last = event.id ?? last;
        wait = 500;
        yield event;
        if (event.event === 'end') return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, 10_000);
  }
}
