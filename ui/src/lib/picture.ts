// A part of the page as a picture: shapes and text where the browser put them, with the colors of the theme. The SVG
// stands alone: no styles, no fonts and no files of this page are needed to show it.

const NS = 'http://www.w3.org/2000/svg';
/** What is there for the hand and the ear, and not part of the picture. */
const LEFT_OUT = 'button:not([aria-expanded], [aria-pressed], [role=columnheader] button), select, textarea, input, [role=tooltip], [role=slider], .sr, [hidden], [data-no-picture]';
const SHAPES = new Set(['path', 'rect', 'circle', 'ellipse', 'line', 'polyline', 'polygon']);

/** An element as SVG text, with a margin around it. */
export function svgOf(element: Element, margin = 12): string {
  const box = element.getBoundingClientRect();
  const width = Math.ceil(box.width) + 2 * margin;
  const height = Math.ceil(Math.max(box.height, element.scrollHeight)) + 2 * margin;
  const root = make('svg', { xmlns: NS, width, height, viewBox: `0 0 ${width} ${height}` });
  root.append(make('rect', { width, height, fill: surface(element) }));
  const inner = make('g', { transform: `translate(${round(margin - box.left)} ${round(margin - box.top)})` });
  root.append(inner);
  draw(element, inner, { clips: 0, root });
  return new XMLSerializer().serializeToString(root);
}

/** An SVG as a PNG of `scale` pixels for each of its own. */
export async function pngOf(svg: string, scale = 2): Promise<Blob> {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth * scale;
  canvas.height = image.naturalHeight * scale;
  canvas.getContext('2d')?.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('This picture is too large for the browser'))), 'image/png'));
}

interface State {
  clips: number;
  root: SVGElement;
}

function draw(element: Element, into: SVGElement, state: State): void {
  if (element.matches(LEFT_OUT)) return;
  const style = getComputedStyle(element);
  if (style.display === 'none' || style.visibility === 'hidden' || style.opacity === '0') return;
  if (element instanceof SVGSVGElement) return drawSvg(element, into);
  if (element instanceof HTMLCanvasElement) {
    into.append(make('image', { ...at(element.getBoundingClientRect()), href: element.toDataURL() }));
    return;
  }
  const boxes = style.display === 'inline' ? [...element.getClientRects()] : [element.getBoundingClientRect()];
  for (const box of boxes) if (box.width && box.height) drawBox(box, style, into);
  let within = into;
  if (style.overflowX !== 'visible' && style.display !== 'inline') within = clipped(boxes[0] as DOMRect, into, state);
  if (Number(style.opacity) < 1) within.setAttribute('opacity', style.opacity);
  for (const node of element.childNodes) {
    if (node instanceof Text) drawText(node, style, within);
    else if (node instanceof Element) draw(node, within, state);
  }
}

/** A group that shows nothing beyond a box. */
function clipped(box: DOMRect, into: SVGElement, state: State): SVGElement {
  const id = `clip${(state.clips += 1)}`;
  const clip = make('clipPath', { id });
  clip.append(make('rect', at(box)));
  const group = make('g', { 'clip-path': `url(#${id})` });
  into.append(clip, group);
  return group;
}

/** Background, borders, and the lines that are shadows inside of a box. */
function drawBox(box: DOMRect, style: CSSStyleDeclaration, into: SVGElement): void {
  const radius = Number.parseFloat(style.borderTopLeftRadius) || 0;
  if (isSeen(style.backgroundColor)) into.append(make('rect', { ...at(box), rx: radius, fill: style.backgroundColor }));
  const half = /^linear-gradient\(to top, (rgba?\([^)]*\)) 50%/.exec(style.backgroundImage);
  if (half) into.append(make('rect', { x: round(box.left), y: round(box.top + box.height / 2), width: round(box.width), height: round(box.height / 2), fill: half[1] ?? '' }));
  const inset = /^(rgba?\([^)]*\)|color\([^)]*\)) 0px (-?[\d.]+)px 0px 0px inset$/.exec(style.boxShadow);
  if (inset && Number(inset[2]) < 0) {
    const high = -Number(inset[2]);
    into.append(make('rect', { x: round(box.left), y: round(box.bottom - high), width: round(box.width), height: high, fill: inset[1] ?? '' }));
  }
  const wide = { top: Number.parseFloat(style.borderTopWidth), right: Number.parseFloat(style.borderRightWidth), bottom: Number.parseFloat(style.borderBottomWidth), left: Number.parseFloat(style.borderLeftWidth) };
  if (wide.top && wide.right && wide.bottom && wide.left) {
    if (isSeen(style.borderTopColor)) into.append(make('rect', { ...at(box), rx: radius, fill: 'none', stroke: style.borderTopColor, 'stroke-width': wide.top }));
    return;
  }
  const side = (x1: number, y1: number, x2: number, y2: number, width: number, color: string): void => {
    if (width && isSeen(color)) into.append(make('line', { x1: round(x1), y1: round(y1), x2: round(x2), y2: round(y2), stroke: color, 'stroke-width': width }));
  };
  side(box.left, box.top, box.right, box.top, wide.top, style.borderTopColor);
  side(box.left, box.bottom, box.right, box.bottom, wide.bottom, style.borderBottomColor);
  side(box.left, box.top, box.left, box.bottom, wide.left, style.borderLeftColor);
  side(box.right, box.top, box.right, box.bottom, wide.right, style.borderRightColor);
}

/** A text node, line by line. */
function drawText(node: Text, style: CSSStyleDeclaration, into: SVGElement): void {
  if (!node.data.trim()) return;
  const range = document.createRange();
  for (const [start, end] of lines(node, range)) {
    range.setStart(node, start);
    range.setEnd(node, end);
    const box = range.getBoundingClientRect();
    const text = node.data.slice(start, end);
    if (!box.width || !text.trim()) continue;
    const size = Number.parseFloat(style.fontSize);
    const isRight = style.direction === 'rtl';
    const written = make('text', {
      x: round(isRight ? box.right : box.left),
      y: round(box.top + box.height / 2 + 0.35 * size),
      'xml:space': 'preserve',
      'font-family': style.fontFamily.replaceAll('"', "'"),
      'font-size': style.fontSize,
      'font-weight': style.fontWeight,
      fill: style.color,
      ...(isRight ? { direction: 'rtl' } : {}),
    });
    written.textContent = style.textTransform === 'uppercase' ? text.toUpperCase() : text;
    into.append(written);
  }
}

/** Where the lines of a text node begin and end. */
function lines(node: Text, range: Range): [number, number][] {
  range.selectNodeContents(node);
  if (range.getClientRects().length < 2) return [[0, node.length]];
  const found: [number, number][] = [];
  let top = Number.NaN;
  for (let i = 0; i < node.length; i += 1) {
    range.setStart(node, i);
    range.setEnd(node, i + 1);
    const box = range.getClientRects()[0];
    const last = found.at(-1);
    if (box && (!last || Math.abs(box.top - top) > box.height / 2)) {
      found.push([i, i + 1]);
      top = box.top;
    } else if (last) last[1] = i + 1;
  }
  return found;
}

/** A drawing within the page: its shapes with the colors that the styles give them. */
function drawSvg(svg: SVGSVGElement, into: SVGElement): void {
  const box = svg.getBoundingClientRect();
  const copy = svg.cloneNode(true) as SVGSVGElement;
  const own = [...svg.querySelectorAll<SVGElement>('*')];
  for (const [i, element] of [...copy.querySelectorAll<SVGElement>('*')].entries()) {
    const style = getComputedStyle(own[i] as Element);
    for (const name of [...element.attributes].map((attribute) => attribute.name)) if (name === 'class' || name === 'style' || name.startsWith('data-')) element.removeAttribute(name);
    if (style.display === 'none') element.setAttribute('display', 'none');
    if (SHAPES.has(element.tagName) || element.tagName === 'text') {
      element.setAttribute('fill', plain(style.fill));
      element.setAttribute('stroke', plain(style.stroke));
      if (style.stroke !== 'none') element.setAttribute('stroke-width', style.strokeWidth);
      if (style.strokeDasharray !== 'none') element.setAttribute('stroke-dasharray', style.strokeDasharray);
      if (style.opacity !== '1') element.setAttribute('opacity', style.opacity);
    }
    if (element.tagName === 'text') {
      element.setAttribute('font-family', style.fontFamily.replaceAll('"', "'"));
      element.setAttribute('font-size', style.fontSize);
      element.setAttribute('text-anchor', style.textAnchor);
    }
  }
  copy.removeAttribute('class');
  copy.removeAttribute('style');
  for (const [name, value] of Object.entries(at(box))) copy.setAttribute(name, String(value));
  copy.setAttribute('color', getComputedStyle(svg).color);
  into.append(copy);
}

/** What an element lies on: the first color behind it. */
function surface(element: Element): string {
  for (let one: Element | null = element; one; one = one.parentElement) {
    const color = getComputedStyle(one).backgroundColor;
    if (isSeen(color)) return color;
  }
  return 'white';
}

function isSeen(color: string): boolean {
  return color !== 'transparent' && !/^rgba\(.*, 0\)$/.test(color) && !/\/ 0\)$/.test(color);
}

function at(box: DOMRect): { x: number; y: number; width: number; height: number } {
  return { x: round(box.left), y: round(box.top), width: round(box.width), height: round(box.height) };
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** Colors as every program reads them: mixed ones come as color(srgb 0 0.5 1 / 0.3). */
function plain(value: string): string {
  const mixed = /^color\(srgb ([\d.e-]+) ([\d.e-]+) ([\d.e-]+)(?: \/ ([\d.e-]+))?\)$/.exec(value);
  if (!mixed) return value;
  const [red, green, blue] = mixed.slice(1, 4).map((part) => Math.round(255 * Number(part)));
  return `rgba(${red}, ${green}, ${blue}, ${mixed[4] ?? 1})`;
}

function make(name: string, attributes: Record<string, string | number>): SVGElement {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, typeof value === 'string' ? plain(value) : String(value));
  return element;
}
