// What a panel shows, as Python that shows the same from the bundle's files.

import type { ActivateResponse, Card, Column, Comparison, Condition, DiffResponse, Loaded, Meta, SearchResult, SteerStart, TokenOut } from '$/api/types';
import { describe } from './conditions';

const text = (value: unknown): string => JSON.stringify(value);

function opened(path: string, name = 'bundle'): string {
  return `${name} = FeatureBundle.open(${text(path)})\n`;
}

const IMPORT = 'from monoscope.features import FeatureBundle\n';

export function ofOverview(path: string): string {
  return `${IMPORT}\n${opened(path)}bundle.manifest["stats"]\nbundle.column("density")\n`;
}

const ADDED = new Set(['score', 'bookmarked']);

/** A table's filter and order; what people add is in the workspace, not in the bundle, and only named. */
export function ofTable(path: string, conditions: readonly Condition[], sort: string, columns: readonly Column[]): string {
  const own = (name: string): boolean => columns.some((column) => column.name === name && ['number', 'integer', 'boolean'].includes(column.type) && !ADDED.has(name));
  const kept = conditions.filter((condition) => own(condition.column));
  const by = sort.replace('-', '');
  const steps = [
    kept.length ? `.filter(${kept.map(expression).join(' & ')})` : '',
    own(by) ? `.sort_by([(${text(by)}, "${sort.startsWith('-') ? 'descending' : 'ascending'}")])` : '',
  ].join('');
  const others = conditions.filter((condition) => !kept.includes(condition)).map((condition) => `# and where: ${describe(condition).replace(/\s+/g, ' ')}\n`);
  return `${kept.length ? 'import pyarrow.compute as pc\n' : ''}${IMPORT}\n${opened(path)}${others.join('')}table = bundle.features${steps}\n`;
}

function expression({ column, op, value }: Condition): string {
  const field = `pc.field(${text(column)})`;
  if (op === 'is_null') return `${field}.is_null()`;
  if (op === 'not_null') return `${field}.is_valid()`;
  if (op === 'in') return `${field}.isin(${text(value)})`;
  const literal = typeof value === 'boolean' ? (value ? 'True' : 'False') : text(value);
  return `(${field} ${op === '=' ? '==' : op} ${literal})`;
}

/** The numbers of several bundles. */
export function ofCards(cards: readonly { path: string }[]): string {
  return `${IMPORT}\nfor path in ${text(cards.map((card) => card.path))}:\n    bundle = FeatureBundle.open(path)\n    print(bundle.path.name, bundle.manifest["stats"])\n`;
}

/** A search again, over the same labels and by the same indexes. */
export function ofSearch({ kept, capabilities }: Meta, cards: readonly Card[], asked: { q: string; mode: SearchResult['mode']; labeled: string; limit: number }): string {
  const bundles = Object.fromEntries(cards.map((card) => [card.id, card.path]));
  const embedder = kept.embedder === null ? 'packaged()' : text(kept.embedder);
  const names = ['Search', ...(capabilities.semantic ? ['LocalEmbedder', ...(kept.embedder === null ? ['packaged'] : [])] : [])].sort();
  const labeled = { true: ', labeled=True', false: ', labeled=False' }[asked.labeled] ?? '';
  return `${IMPORT}from monoscope.features.search import ${names.join(', ')}\nfrom monoscope.features.workspace import Workspace\n\nworkspace = Workspace.open(${text(kept.workspace)})\nsearch = Search(${text(kept.search)}, workspace${capabilities.semantic ? `, LocalEmbedder(${embedder})` : ''})\nfor name, path in ${text(bundles)}.items():\n    search.add(name, FeatureBundle.open(path))\nsearch.prepare()\nfound = search.query(${text(asked.q)}, mode=${text(asked.mode)}${labeled}, limit=${asked.limit})\nfor hit in found.hits:\n    print(hit.dictionary, hit.feature, hit.why, hit.label)\n`;
}

/** A curve of training runs. */
export function ofRuns(paths: readonly string[], name: string): string | undefined {
  if (!paths.length) return undefined;
  return `from monoscope.training import History\n\nfor path in ${text(paths)}:\n    run = History.open(path)\n    print(run.column("step"), run.column(${text(name)}))\n`;
}

/** A dictionary read as the server reads it. */
function loaded({ path, layout, choices }: Loaded): string {
  const rules = Object.keys(choices).length ? `, choices=${text(choices)}` : '';
  return `load(${text(path)}${layout === null ? '' : `, ${text(layout)}`}${rules})`;
}

/** Dictionaries by name, and the model that they are of. */
function ofModel(model: string, dictionaries: Record<string, Loaded>): string {
  const each = Object.entries(dictionaries).map(([name, from]) => `${text(name)}: ${loaded(from)}`);
  return `lm = LanguageModel.from_pretrained(${text(model)})\ndictionaries = {${each.join(', ')}}\n`;
}

const READING = 'import torch\n\nfrom monoscope.formats import load\nfrom monoscope.models import LanguageModel\n\n';

/** `acts` of a dictionary on `tokens`, at an indent. */
function encoded(indent: string): string {
  const lines = ['read = lm.read(tokens, dictionary.reads)', 'x = [read[lm.resolve(site)] for site in dictionary.reads]', 'acts = dictionary.encode(torch.stack(x, -2) if len(x) > 1 else x[0]).dense()[0]  # [pos, F]'];
  return lines.map((line) => `${indent}${line}\n`).join('');
}

const ids = (tokens: readonly TokenOut[]): string => `[${tokens.map((token) => token.id).join(', ')}]`;

/** The features that are strongest on a text, of each dictionary: at one place, or as a whole. */
export function ofActivations({ tokens, hidden, model, dictionaries }: ActivateResponse, top: number, at: number | null): string {
  const ranked = at === null ? `acts[${hidden}:].abs().amax(0)` : `acts[${at}].abs()`;
  return `${READING}${ofModel(model, dictionaries)}tokens = torch.tensor([${ids(tokens)}])\nfor name, dictionary in dictionaries.items():\n${encoded('    ')}    values, features = ${ranked}.sort(descending=True)\n    print(name, features[:${top}].tolist(), values[:${top}].tolist())\n`;
}

/** The features in which two texts differ most: at one place, or by the largest activations over the texts. */
export function ofDifference({ tokens_a, tokens_b, hidden, aligned, model, dictionaries }: DiffResponse, top: number, at: number | null): string {
  const pair = at === null ? undefined : aligned[at];
  const place = (index: number | null | undefined): string => (pair === undefined ? 'slice(HIDDEN, None)' : index === null || index === undefined ? 'slice(0, 0)' : `slice(${index}, ${index + 1})`);
  const rows = [`(${ids(tokens_a)}, ${place(pair?.a)})`, `(${ids(tokens_b)}, ${place(pair?.b)})`].join(',\n    ').replaceAll('HIDDEN', String(hidden));
  return `${READING}${ofModel(model, dictionaries)}(dictionary,) = dictionaries.values()\ntexts = [\n    ${rows},\n]\nsides = []\nfor ids, place in texts:\n    tokens = torch.tensor([ids])\n${encoded('    ')}    acts = torch.cat([acts[place], acts.new_zeros(1, acts.shape[1])])\n    sides.append(acts.gather(0, acts.abs().argmax(0, keepdim=True))[0])\ndifference = sides[1] - sides[0]\nfeatures = (-difference.abs()).argsort(stable=True)[:${top}]\nprint(features.tolist(), difference[features].tolist())\n`;
}

/** A steered text again, from its spec. */
export function ofSteering(start: Pick<SteerStart, 'spec' | 'model' | 'dictionaries'>): string {
  return `import tomllib\n\nfrom monoscope.formats import load\nfrom monoscope.interventions import Steering\nfrom monoscope.models import LanguageModel\n\nspec = ${text(start.spec)}\nsteering = Steering.from_dict(tomllib.loads(spec))  # of a saved file: Steering.load("steering.toml")\n${ofModel(start.model, start.dictionaries)}print(lm.tokenizer.decode(steering.replay(lm, dictionaries)[0]))\n`;
}

/** Functions under which opposite directions are one feature. */
const SIGNED = new Set(['abs_topk', 'pursuit']);

/** How two dictionaries correspond by their directions; nothing where they were compared by when they fire. */
export function ofPair(comparison: Comparison, a: Card, b: Card): string | undefined {
  if (comparison.by !== 'decoder') return undefined;
  const rows = (name: string): string => `torch.as_tensor(${name}.decoder()).float()`;
  return `import torch\n\nfrom monoscope.evals.correspondence import by_direction\n${IMPORT}\n${opened(a.path, 'a')}${opened(b.path, 'b')}pairs = by_direction(${rows('a')}, ${rows('b')}, ${comparison.threshold}, signed=${SIGNED.has(a.function) || SIGNED.has(b.function) ? 'False' : 'True'})\npairs.pairs, pairs.similarity, pairs.splits(), pairs.merges()\n`;
}
