import './styles/index.css';
import { mount } from 'svelte';
import App from './app/App.svelte';
import { applyPreferences } from './app/preferences.svelte';
import { router } from './app/router.svelte';
import { routes } from './app/routes';

applyPreferences();
router.routes = routes;
mount(App, { target: document.getElementById('app') as HTMLElement });
