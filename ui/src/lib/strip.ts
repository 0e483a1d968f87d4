// Tokens as elements. One strip is a few hundred of them, drawn without a component each; what a token is worth is
// looked up from its strip when the pointer is over it. Strips on the screen are drawn at once, the others after that has
// been painted: a page of strips costs as much as what is seen of it.

import { afterPaint } from './paint';
import { classes, opacity } from './ramp';
import { isPartial, visible } from './tokens';

export interface Strip {
  tokens: readonly string[];
  /** Activation at each token; 0 where the feature is silent. */
  acts: ArrayLike<number>;
  /** Largest activation of the whole list, so that strips compare. */
  max: number;
  /** Place of the strongest token, where the strip is aligned; null for none. */
  peak: number | null;
  /** Position of the first token in its sequence. */
  start: number;
  /** Number of its sequence in the bundle. */
  sequence?: number | undefined;
  /** Which tokens are special. */
  special?: ((at: number) => boolean) | undefined;
  /** Of features that move activations between tokens: where the peak's came from, by place. */
  sources?: ReadonlyMap<number, number> | undefined;
}

/** Most of a source's color, so that text reads over it on both surfaces. */
const SOURCE = 0.55;

/** Tokens within this of the strongest one are a snippet. */
export const NEAR = 8;

/** Strips that are drawn at once though nothing is known of where they are. */
const FIRST = 16;
/** Milliseconds that drawing what is not seen may take at a time. */
const SLICE = 6;
/** Pixels that a character takes at least, as a rule. */
const NARROW = 6;

const RIGHT_TO_LEFT = /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\p{Script=Adlam}]/u;

/** What stands in a strip's element: tokens from `first` to before `end`, and where those before and after them go. */
interface Drawing {
  strip: Strip;
  first: number;
  end: number;
  before: HTMLElement;
  after: HTMLElement;
}

const drawings = new WeakMap<Element, Drawing>();
const seen = new WeakSet<Element>();
const widths = new WeakMap<Element, number>();
const waiting = new Map<HTMLElement, Strip>();
let unknown = 0;

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting, boundingClientRect } of entries) {
    widths.set(target, boundingClientRect.width);
    if (isIntersecting) seen.add(target);
    else seen.delete(target);
    if (isIntersecting) finish(target as HTMLElement);
  }
});

/** Learn whether a strip is on the screen; call before it is shown. */
export function watchStrip(root: HTMLElement): () => void {
  watcher.observe(root);
  return () => {
    watcher.unobserve(root);
    waiting.delete(root);
  };
}

/**
 * Draw a strip: what is seen of it now, the rest soon. `line`: it is one line about its strongest token, and what its
 * sides hide is not seen.
 */
export function showStrip(root: HTMLElement, strip: Strip, line: boolean): void {
  const isNew = !drawings.has(root);
  if (seen.has(root) || (isNew && unknown < FIRST)) {
    if (isNew) {
      if (unknown === 0) requestAnimationFrame(() => (unknown = 0));
      unknown += 1;
    }
    const n = strip.tokens.length;
    const [first, end] = line && strip.peak !== null ? about(strip, strip.peak, widths.get(root) ?? innerWidth / 2) : [0, n];
    draw(root, strip, first, end);
    if (first === 0 && end === n) {
      waiting.delete(root);
      return;
    }
  }
  if (!waiting.size) afterPaint(drawWaiting);
  waiting.set(root, strip);
}

function drawWaiting(): void {
  const until = performance.now() + SLICE;
  for (const root of waiting.keys()) {
    finish(root);
    if (performance.now() > until) break;
  }
  if (waiting.size) setTimeout(drawWaiting);
}

/** Draw what is still missing of a strip. */
function finish(root: HTMLElement): void {
  const strip = waiting.get(root);
  if (!strip) return;
  waiting.delete(root);
  const drawing = drawings.get(root);
  if (drawing?.strip !== strip) return draw(root, strip, 0, strip.tokens.length);
  drawing.before.prepend(tokens(strip, 0, drawing.first));
  drawing.after.append(tokens(strip, drawing.end, strip.tokens.length));
  drawing.first = 0;
  drawing.end = strip.tokens.length;
}

/** The tokens about the strongest one that a line of this width holds, and those of a snippet. */
function about({ tokens }: Strip, peak: number, width: number): [number, number] {
  let first = peak;
  let end = peak;
  for (let room = width / NARROW; first > 0 && (room > 0 || peak - first < NEAR); room -= tokens[first]?.length ?? 0) first -= 1;
  for (let room = width / NARROW; end < tokens.length && (room > 0 || end - peak <= NEAR); end += 1) room -= tokens[end]?.length ?? 0;
  return [first, end];
}

/** The strip and place of a token under an event's target. */
export function tokenAt(target: EventTarget | null): { strip: Strip; at: number; element: HTMLElement } | null {
  const element = target instanceof Element ? target.closest<HTMLElement>('.t') : null;
  const root = element?.closest('.strip');
  const drawing = root ? drawings.get(root) : undefined;
  if (!element || !root || !drawing) return null;
  return { strip: drawing.strip, at: drawing.first + [...root.querySelectorAll('.t')].indexOf(element), element };
}

/**
 * Draw tokens of a strip into its element: what stands before the strongest one, and the rest. Those far from it are in
 * elements of their own, so that hiding them costs nothing.
 */
function draw(root: HTMLElement, strip: Strip, first: number, end: number): void {
  const { peak } = strip;
  const inner = part('in');
  if (peak === null) {
    inner.append(tokens(strip, first, end));
    root.replaceChildren(part('right', inner));
    drawings.set(root, { strip, first, end, before: inner, after: inner });
    return;
  }
  const left = part('in');
  const [before, after] = [part('far'), part('far')];
  const [from, to] = [Math.max(first, peak - NEAR), Math.min(end, peak + NEAR + 1)];
  before.append(tokens(strip, first, from));
  left.append(before, tokens(strip, from, peak));
  after.append(tokens(strip, to, end));
  inner.append(tokens(strip, peak, to), after);
  root.replaceChildren(part('left', left), part('right', inner));
  drawings.set(root, { strip, first, end, before, after });
}

function tokens(strip: Strip, first: number, end: number): DocumentFragment {
  const into = document.createDocumentFragment();
  for (let i = first; i < end; i += 1) {
    const text = strip.tokens[i] ?? '';
    into.append(token(strip, text, i));
    if (text.includes('\n')) into.append(document.createElement('br'));
  }
  return into;
}

function part(name: string, ...inner: Element[]): HTMLElement {
  const span = document.createElement('span');
  span.className = name;
  span.append(...inner);
  return span;
}

function token(strip: Strip, text: string, i: number): HTMLElement {
  const span = document.createElement('span');
  const value = strip.acts[i] ?? 0;
  let name = 't';
  const color = value ? classes(value, strip.max) : '';
  if (color) name += ` ${color}`;
  if (i === strip.peak) name += ' peak';
  if (isPartial(text)) name += ' bytes';
  if (strip.special?.(i)) name += ' special';
  const from = strip.sources?.get(i);
  if (from !== undefined) {
    name += ' src';
    span.style.setProperty('--sa', (SOURCE * opacity(from, Math.max(...[...(strip.sources?.values() ?? [])].map(Math.abs)))).toFixed(2));
  }
  span.className = name;
  // Tokens stand in their order; the letters of one run their own way. Where none do, isolating costs time for nothing.
  if (RIGHT_TO_LEFT.test(text)) span.dir = 'auto';
  span.textContent = visible(text);
  return span;
}

/** Sources of a context by their place; none where the feature reads one token at a time. */
export function sourcesOf(pos: readonly number[], val: readonly number[]): ReadonlyMap<number, number> | undefined {
  return pos.length ? new Map(pos.map((at, i) => [at, val[i] ?? 0])) : undefined;
}

/** Activations of a context, from where it fires and how much. */
export function dense(length: number, pos: readonly number[], val: readonly number[]): Float32Array {
  const acts = new Float32Array(length);
  for (const [i, at] of pos.entries()) if (at < length) acts[at] = val[i] ?? 0;
  return acts;
}
