// Tokens as elements. One strip is a few hundred of them, drawn without a component each; what a token is worth is
// looked up from its strip when the pointer is over it. Strips on the screen are drawn at once, the others after that has
// been painted: a page of strips costs as much as what is seen of it. Where many strips are shown, tokens that look like
// nothing but their text stand together as one text each, until the pointer comes to the strip: most tokens are silent.

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
  /** Whether silent tokens in a row are one text. */
  joined: boolean;
  first: number;
  end: number;
  before: HTMLElement;
  after: HTMLElement;
}

const drawings = new WeakMap<Element, Drawing>();
/** Place of a token in its strip. */
const places = new WeakMap<Element, number>();
const seen = new WeakSet<Element>();
const widths = new WeakMap<Element, number>();
const waiting = new Map<HTMLElement, [Strip, boolean]>();
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
 * sides hide is not seen. `joined`: silent tokens are elements of their own only once they are pointed at.
 */
export function showStrip(root: HTMLElement, strip: Strip, line: boolean, joined: boolean): void {
  const isNew = !drawings.has(root);
  if (seen.has(root) || (isNew && unknown < FIRST)) {
    if (isNew) {
      if (unknown === 0) requestAnimationFrame(() => (unknown = 0));
      unknown += 1;
    }
    const n = strip.tokens.length;
    const [first, end] = line && strip.peak !== null ? about(strip, strip.peak, widths.get(root) ?? innerWidth / 2) : [0, n];
    draw(root, strip, first, end, joined);
    if (first === 0 && end === n) {
      waiting.delete(root);
      return;
    }
  }
  if (!waiting.size) afterPaint(drawWaiting);
  waiting.set(root, [strip, joined]);
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
  const wanted = waiting.get(root);
  if (!wanted) return;
  const [strip, joined] = wanted;
  waiting.delete(root);
  const drawing = drawings.get(root);
  if (drawing?.strip !== strip) return draw(root, strip, 0, strip.tokens.length, joined);
  drawing.before.prepend(tokens(strip, 0, drawing.first, joined));
  drawing.after.append(tokens(strip, drawing.end, strip.tokens.length, joined));
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

/** The strip and place of the token that an event of the pointer is on. */
export function tokenAt(event: MouseEvent): { strip: Strip; at: number; element: HTMLElement } | null {
  let target = event.target instanceof Element ? event.target : null;
  const root = target?.closest<HTMLElement>('.strip');
  const drawing = root ? drawings.get(root) : undefined;
  if (!root || !drawing) return null;
  if (drawing.joined && !target?.closest('.t')) {
    waiting.delete(root);
    draw(root, drawing.strip, 0, drawing.strip.tokens.length, false);
    target = (root.getRootNode() as Document | ShadowRoot).elementFromPoint(event.clientX, event.clientY);
  }
  const element = target?.closest<HTMLElement>('.t');
  const at = element ? places.get(element) : undefined;
  return element && at !== undefined ? { strip: drawing.strip, at, element } : null;
}

/**
 * Draw tokens of a strip into its element: what stands before the strongest one, and the rest. Those far from it are in
 * elements of their own, so that hiding them costs nothing.
 */
function draw(root: HTMLElement, strip: Strip, first: number, end: number, joined: boolean): void {
  const { peak } = strip;
  const inner = part('in');
  if (peak === null) {
    inner.append(tokens(strip, first, end, joined));
    root.replaceChildren(part('right', inner));
    drawings.set(root, { strip, joined, first, end, before: inner, after: inner });
    return;
  }
  const left = part('in');
  const [before, after] = [part('far'), part('far')];
  const [from, to] = [Math.max(first, peak - NEAR), Math.min(end, peak + NEAR + 1)];
  before.append(tokens(strip, first, from, joined));
  left.append(before, tokens(strip, from, peak, joined));
  after.append(tokens(strip, to, end, joined));
  inner.append(tokens(strip, peak, to, joined), after);
  root.replaceChildren(part('left', left), part('right', inner));
  drawings.set(root, { strip, joined, first, end, before, after });
}

function tokens(strip: Strip, first: number, end: number, joined: boolean): DocumentFragment {
  const into = document.createDocumentFragment();
  let silent = '';
  const flush = (): void => {
    if (silent) into.append(silent);
    silent = '';
  };
  for (let i = first; i < end; i += 1) {
    const text = strip.tokens[i] ?? '';
    const name = nameOf(strip, text, i);
    if (joined && name === 't' && !RIGHT_TO_LEFT.test(text)) silent += visible(text);
    else {
      flush();
      into.append(token(strip, text, i, name));
    }
    if (text.includes('\n')) {
      flush();
      into.append(document.createElement('br'));
    }
  }
  flush();
  return into;
}

function part(name: string, ...inner: Element[]): HTMLElement {
  const span = document.createElement('span');
  span.className = name;
  span.append(...inner);
  return span;
}

/** Classes of a token: `t` alone where it is silent and of no kind of its own. */
function nameOf(strip: Strip, text: string, i: number): string {
  const value = strip.acts[i] ?? 0;
  const color = value ? classes(value, strip.max) : '';
  let name = color ? `t ${color}` : 't';
  if (i === strip.peak) name += ' peak';
  if (isPartial(text)) name += ' bytes';
  if (strip.special?.(i)) name += ' special';
  if (strip.sources?.has(i)) name += ' src';
  return name;
}

function token(strip: Strip, text: string, i: number, name: string): HTMLElement {
  const span = document.createElement('span');
  span.className = name;
  const from = strip.sources?.get(i);
  if (from !== undefined) span.style.setProperty('--sa', (SOURCE * opacity(from, Math.max(...[...(strip.sources?.values() ?? [])].map(Math.abs)))).toFixed(2));
  // Tokens stand in their order; the letters of one run their own way. Where none do, isolating costs time for nothing.
  if (RIGHT_TO_LEFT.test(text)) span.dir = 'auto';
  span.textContent = visible(text);
  places.set(span, i);
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
