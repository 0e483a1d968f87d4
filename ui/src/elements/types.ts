// What elements draw: the server's records, without what only a server knows.

import type { Bins, Contexts, Feature, Token } from '$/api/types';

export type Tell = (name: 'hover' | 'select', detail: Spot | null) => void;

/** A token of a context: where its sequence is in the bundle, its place there, its text, and the activation on it. */
export interface Spot {
  sequence: number | null;
  position: number;
  token: string;
  value: number;
}

export type Drawn = Pick<
  Feature,
  | 'index'
  | 'n_fired'
  | 'density'
  | 'n_sequences'
  | 'max_act'
  | 'min_act'
  | 'signed'
  | 'mean_act'
  | 'is_dead'
  | 'act_histogram'
  | 'logit_histogram'
  | 'bands'
  | 'tokens'
  | 'promoted'
  | 'suppressed'
>;

export interface FeatureData {
  feature: Drawn;
  contexts: Contexts;
}

export interface TokensData {
  tokens: string[];
  acts: number[];
  max?: number;
  start?: number;
}

export interface HistData {
  bins: Bins;
  title: string;
  signed?: boolean;
}

export interface LogitsData {
  promoted: Token[];
  suppressed: Token[];
}
