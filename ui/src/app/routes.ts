// Pages, one line each. Only pages that exist are here; a page with a `rail` shows in it, in this order.
// Addresses kept free for pages that come later: /graphs, /g/:id, /d/:dict/map, /explain.

import type { Route } from './router.svelte';

export const routes: Route[] = [
  { path: '/', name: 'home', load: () => import('$/pages/Home.svelte'), rail: { title: 'Home', icon: 'home', key: 'h' } },
  { path: '/search', name: 'search', load: () => import('$/pages/Search.svelte'), rail: { title: 'Search', icon: 'search' } },
  { path: '/activate', name: 'activate', load: () => import('$/pages/Activate.svelte'), rail: { title: 'Activate', icon: 'activate' } },
  { path: '/steer', name: 'steer', load: () => import('$/pages/Steer.svelte'), rail: { title: 'Steer', icon: 'steer' } },
  { path: '/compare', name: 'compare', load: () => import('$/pages/Compare.svelte'), rail: { title: 'Compare', icon: 'compare' } },
  { path: '/runs', name: 'runs', load: () => import('$/pages/Runs.svelte'), rail: { title: 'Runs', icon: 'run' } },
  { path: '/runs/:run', name: 'run', load: () => import('$/pages/Run.svelte') },
  { path: '/lists', name: 'lists', load: () => import('$/pages/Lists.svelte'), rail: { title: 'Lists & notes', icon: 'list' } },
  { path: '/lists/:list', name: 'list', load: () => import('$/pages/List.svelte') },
  { path: '/jobs', name: 'jobs', load: () => import('$/pages/Jobs.svelte'), rail: { title: 'Jobs', icon: 'jobs' } },
  { path: '/settings', name: 'settings', load: () => import('$/pages/Settings.svelte'), rail: { title: 'Settings', icon: 'settings' } },
  { path: '/l/:link', name: 'link', load: () => import('$/pages/Link.svelte') },
  { path: '/embed/d/:dict/f/:feature', name: 'embed', load: () => import('$/pages/Embed.svelte'), bare: true },
  { path: '/embed/lists/:list', name: 'embedlist', load: () => import('$/pages/EmbedList.svelte'), bare: true },
  { path: '/d/:dict', name: 'dictionary', load: () => import('$/pages/Dictionary.svelte') },
  { path: '/d/:dict/f/:feature', name: 'feature', load: () => import('$/pages/Feature.svelte') },
];
