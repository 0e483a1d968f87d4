import { fileURLToPath } from 'node:url';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

// The elements of notebooks and static pages: one module, styles in it. Built after the app, beside it.
export default defineConfig({
  plugins: [svelte({ compilerOptions: { css: 'injected' }, emitCss: false })],
  resolve: { alias: { $: fileURLToPath(new URL('./src', import.meta.url)) } },
  publicDir: false,
  build: {
    outDir: '../src/monoscope/_ui',
    emptyOutDir: false,
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    lib: { entry: 'src/elements/index.ts', formats: ['es'], fileName: () => 'elements.js' },
    reportCompressedSize: false,
  },
});
