// The server's records by their names. schema.d.ts is made from its OpenAPI document by `make types`.

import type { components } from './schema';

type Schemas = components['schemas'];

export type Meta = Schemas['Meta'];
export type Library = Schemas['Library'];
export type Card = Schemas['Card'];
export type Broken = Schemas['Broken'];
export type RunCard = Schemas['RunCard'];
export type Opened = Schemas['Opened'];
export type Dictionary = Schemas['Dictionary'];
export type Column = Schemas['Column'];
export type Bins = Schemas['Bins'];
export type Curves = Schemas['Curves'];
export type FeaturePage = Schemas['FeaturePage'];
export type Place = Schemas['Place'];
export type Feature = Schemas['Feature'];
export type Band = Schemas['Band'];
export type SiteNorm = Schemas['SiteNorm'];
export type Token = Schemas['Token'];
export type FiredOn = Schemas['FiredOn'];
export type Contexts = Schemas['Contexts'];
export type ContextGroup = Schemas['ContextGroup'];
export type Context = Schemas['Context'];
export type Neighbors = Schemas['Neighbors'];
export type Neighbor = Schemas['Neighbor'];
export type Uses = Schemas['Uses'];
export type Label = Schemas['Label'];
export type Shown = Schemas['Shown'];
export type Explanation = Schemas['Explanation'];
export type Bookmark = Schemas['Bookmark'];
export type Tag = Schemas['Tag'];
export type FeatureList = Schemas['FeatureList'];
export type ListItem = Schemas['ListItem'];
export type Note = Schemas['Note'];
export type Filter = Schemas['Filter'];
export type FeatureResponse = Schemas['FeatureResponse'];
export type SearchHit = Schemas['SearchHit'];
export type SearchResult = Schemas['SearchResult'];
export type WorkerStatus = Schemas['WorkerStatus'];
export type Message = Schemas['Message'];
/** What is read: a text, or turns that go through the chat template. */
export type Prompt = { text: string } | { messages: Message[] };
export type ActivateResponse = Schemas['ActivateResponse'];
export type TokenOut = Schemas['TokenOut'];
export type Hit = Schemas['Hit'];
export type WholeHit = Schemas['WholeHit'];
export type HeatRow = Schemas['HeatRow'];
export type DiffResponse = Schemas['DiffResponse'];
export type DiffHit = Schemas['DiffHit'];
export type Aligned = Schemas['Aligned'];
export type EditIn = Schemas['EditIn'];
export type SteerRequest = Schemas['SteerRequest'];
export type SteerStart = Schemas['SteerStart'];
export type Loaded = Schemas['Loaded'];
export type SteerToken = Schemas['SteerToken'];
export type Likely = Schemas['Likely'];
export type PlaceTrace = Schemas['PlaceTrace'];
export type SteerTrace = Schemas['SteerTrace'];
export type Guard = Schemas['Guard'];
export type SteerDone = Schemas['SteerDone'];
export type CompareRequest = Schemas['CompareRequest'];
export type CompareMetrics = Schemas['CompareMetrics'];
export type ComparePair = Schemas['ComparePair'];
export type Comparison = Schemas['Comparison'];
export type CompareRow = Schemas['CompareRow'];
export type CompareRows = Schemas['CompareRows'];
export type Job = Schemas['Job'];
export type JobEvent = Schemas['JobEvent'];
export type JobList = Schemas['JobList'];
export type Progress = Schemas['Progress'];

/** A condition on a column: it crosses the wire as JSON in a query, which the document only knows as text. */
export interface Condition {
  column: string;
  op: '=' | '!=' | '<' | '<=' | '>' | '>=' | 'in' | 'contains' | 'prefix' | 'matches' | 'is_null' | 'not_null';
  value: boolean | number | string | (boolean | number | string)[] | null;
}
export type Run = Schemas['Run'];
