// A notebook's widget: traits on one side, an element on the other. Further features are asked for, some ahead.

import type { FeatureData } from './types';

/** What a notebook gives a widget; the part of it that is used here. */
interface Model {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  save_changes(): void;
  send(content: unknown): void;
  on(name: string, heard: (...given: never[]) => void): void;
  off(name: string, heard: (...given: never[]) => void): void;
}

interface Answer {
  kind: 'features';
  features: FeatureData[];
}

/** Features that are kept on this side. */
const KEPT = 64;

export function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const known = new Map<number, FeatureData>();
  const asked = new Set<number>();
  const element = document.createElement('mono-feature') as HTMLElement & { data: FeatureData | null };
  const count = model.get('n_features') as number;

  const tell = (trait: string) => (event: Event) => {
    model.set(trait, (event as CustomEvent<unknown>).detail);
    model.save_changes();
  };
  element.addEventListener('mono-hover', tell('hovered'));
  element.addEventListener('mono-select', tell('selected'));

  function keep(data: FeatureData): void {
    known.set(data.feature.index, data);
    asked.delete(data.feature.index);
    const oldest = known.keys().next();
    if (known.size > KEPT && !oldest.done) known.delete(oldest.value);
  }

  function ahead(index: number): void {
    const wanted: number[] = [];
    for (let i = index + 1; i <= index + (model.get('prefetch') as number) && i < count; i += 1) if (!known.has(i) && !asked.has(i)) wanted.push(i);
    if (!wanted.length) return;
    for (const i of wanted) asked.add(i);
    model.send({ kind: 'ask', features: wanted });
  }

  let drawn = -1;
  function draw(data: FeatureData): void {
    if (drawn === data.feature.index) return;
    drawn = data.feature.index;
    element.data = data;
  }

  function show(): void {
    const index = model.get('feature') as number;
    const data = known.get(index);
    if (field) field.value = String(index);
    if (data) draw(data);
    if (count > 1) ahead(index);
  }

  function given(): void {
    const data = model.get('data') as FeatureData;
    keep(data);
    if (data.feature.index === model.get('feature')) show();
  }

  function go(index: number): void {
    if (!Number.isInteger(index) || index < 0 || index >= count) return show();
    model.set('feature', index);
    model.save_changes();
    show();
  }

  function answered(answer: Answer): void {
    if (answer.kind !== 'features') return;
    for (const data of answer.features) keep(data);
  }

  const field = count > 1 ? document.createElement('input') : null;
  if (field) el.append(controls(field, go, () => model.get('feature') as number, count));
  el.append(element);
  model.on('change:data', given);
  model.on('change:feature', show);
  model.on('msg:custom', answered);
  given();
  return () => {
    model.off('change:data', given);
    model.off('change:feature', show);
    model.off('msg:custom', answered);
  };
}

/** The way from feature to feature. */
function controls(field: HTMLInputElement, go: (index: number) => void, at: () => number, count: number): HTMLElement {
  const row = document.createElement('div');
  row.style.cssText = 'display:flex;gap:.5rem;align-items:center;margin-bottom:.5rem;font:13px system-ui,sans-serif';
  const button = (text: string, name: string, step: number): HTMLButtonElement => {
    const made = document.createElement('button');
    made.type = 'button';
    made.textContent = text;
    made.setAttribute('aria-label', name);
    made.addEventListener('click', () => go(at() + step));
    return made;
  };
  field.type = 'number';
  field.min = '0';
  field.max = String(count - 1);
  field.setAttribute('aria-label', 'Feature number');
  field.addEventListener('change', () => go(Number(field.value)));
  const of = document.createElement('span');
  of.textContent = `of ${count.toLocaleString('en-US')}`;
  row.append(button('\u2190', 'Previous feature', -1), field, button('\u2192', 'Next feature', 1), of);
  return row;
}
