// The one place that talks to the server.

import { base } from '$/app/router.svelte';
import { connection } from './connection.svelte';
import { bearer } from './reader';

export type Query = Record<string, string | number | boolean | readonly (string | number)[] | null | undefined>;

// What a page that goes away may still have on the way, of 64 KiB that browsers let all its requests have together.
const KEPT = 16_384;

interface Options {
  query?: Query;
  signal?: AbortSignal | undefined;
  body?: unknown;
  /** The row's version as it was read: the server refuses a change of what has changed since. */
  etag?: string | null | undefined;
  accept?: string;
  /** Id of the last event seen, to go on after it. */
  last?: string | null;
}

/** What the server (RFC 9457) or the connection says when a request fails. */
export class Problem extends Error {
  override readonly name = 'Problem';
  readonly status: number;
  readonly title: string;
  readonly found: unknown;
  readonly expected: unknown;
  readonly hint: string | null;
  /** Of a change that came too late, or of a row that exists already: the row as it stands. */
  readonly current: unknown;

  constructor(status: number, body: Record<string, unknown>) {
    const text = (key: string): string | null => (typeof body[key] === 'string' ? (body[key] as string) : null);
    const title = text('title') ?? (status ? `The server answered ${status}` : 'The server does not answer');
    super(text('detail') ?? title);
    this.status = status;
    this.title = title;
    this.found = body['found'];
    this.expected = body['expected'];
    this.hint = text('hint');
    this.current = body['current'] ?? null;
  }
}

export function apiUrl(path: string, query: Query = {}): string {
  const url = new URL(`api/v1/${path.replace(/^\//, '')}`, base);
  for (const [name, value] of Object.entries(query)) {
    if (value === null || value === undefined || value === '') continue;
    if (Array.isArray(value)) for (const item of value) url.searchParams.append(name, String(item));
    else url.searchParams.set(name, String(value));
  }
  return url.href;
}

export async function send(method: string, path: string, options: Options = {}): Promise<Response> {
  const headers: Record<string, string> = { Accept: options.accept ?? 'application/json' };
  if (options.body !== undefined) headers['Content-Type'] = 'application/json';
  if (options.last) headers['Last-Event-ID'] = options.last;
  if (bearer) headers['Authorization'] = bearer;
  if (options.etag) headers['If-Match'] = `"${options.etag}"`;
  const body = options.body === undefined ? null : JSON.stringify(options.body);
  let response: Response;
  try {
    response = await fetch(apiUrl(path, options.query), {
      method,
      headers,
      credentials: 'same-origin',
      body,
      signal: options.signal ?? null,
      // A change reaches the server though the page goes away; a question that can be called off need not.
      keepalive: method !== 'GET' && !options.signal && (body?.length ?? 0) < KEPT,
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    connection.online = false;
    throw new Problem(0, {
      title: 'The server does not answer',
      detail: 'The server does not answer. It may have been stopped; start it again and this page goes on.',
    });
  }
  connection.online = true;
  if (response.ok) return response;
  connection.denied = response.status === 401;
  throw new Problem(response.status, await problemBody(response));
}

async function problemBody(response: Response): Promise<Record<string, unknown>> {
  try {
    const body: unknown = await response.json();
    return body && typeof body === 'object' ? (body as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

async function json<T>(method: string, path: string, options: Options): Promise<T> {
  const response = await send(method, path, options);
  if (response.status === 204) return undefined as T;
  return (await response.json()) as T;
}

export const api = {
  get: <T>(path: string, query?: Query, signal?: AbortSignal) => json<T>('GET', path, { query: query ?? {}, signal }),
  post: <T>(path: string, body: unknown, signal?: AbortSignal, etag?: string) => json<T>('POST', path, { body, signal, etag }),
  put: <T>(path: string, body: unknown, etag?: string | null) => json<T>('PUT', path, { body, etag }),
  patch: <T>(path: string, body: unknown, etag?: string | null) => json<T>('PATCH', path, { body, etag }),
  delete: <T = void>(path: string, etag?: string | null, query?: Query) => json<T>('DELETE', path, { etag, query: query ?? {} }),
};

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === 'AbortError';
}
