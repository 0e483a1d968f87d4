// Filters that were given a name: the state of a page, to come back to.

import { api } from './client';
import { history, stateOf, wrote } from './history.svelte';
import type { Filter } from './types';

type State = Filter['state'];

const write = async (row: Filter, etag: string, state: State): Promise<Filter> =>
  wrote(await api.put<Filter>(`filters/${row.id}`, { name: row.name, page: row.page, state }, etag));

export const filters = {
  of: async (page: string, signal?: AbortSignal) => (await api.get<{ items: Filter[] }>('filters', { page, limit: 1000 }, signal)).items,

  async create(page: string, name: string, state: State): Promise<void> {
    history.made(`the filter “${name}”`, 'filters', wrote(await api.post<Filter>('filters', { page, name, state })));
  },
  /** Save another state over the filter that was read. Throws a Problem of status 412 when another came first. */
  async replace(filter: Filter, state: State): Promise<void> {
    const saved = await write(filter, filter.etag, state);
    history.did(
      `replacing the filter “${filter.name}”`,
      () => write(saved, stateOf(saved), filter.state),
      () => write(saved, stateOf(saved), state),
    );
  },
  async remove(filter: Filter): Promise<void> {
    await api.delete(`filters/${filter.id}`, filter.etag);
    history.removed(`removing the filter “${filter.name}”`, 'filters', filter);
  },
};
