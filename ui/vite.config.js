import { readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

/** Writes the licenses of the packages whose code is in the bundle. */
function notices() {
  return {
    name: 'third-party-notices',
    generateBundle(_options, bundle) {
      const roots = new Set();
      for (const chunk of Object.values(bundle)) {
        for (const id of Object.keys(chunk.modules ?? {})) {
          const found = /^\0?(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id);
          if (found && !found[1].endsWith('/vite')) roots.add(found[1]);
        }
      }
      const texts = [...roots].sort().map((root) => {
        const { name, version, license } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));
        const file = readdirSync(root).find((entry) => /^licen[cs]e/i.test(entry));
        return `${name} ${version} (${license})\n\n${file ? readFileSync(`${root}/${file}`, 'utf8').trim() : ''}\n`;
      });
      this.emitFile({ type: 'asset', fileName: 'THIRD-PARTY.txt', source: texts.join('\n\n') });
    },
  };
}

export default defineConfig({
  // Relative: the interface works under any prefix, behind a proxy too.
  base: './',
  plugins: [svelte(), notices()],
  resolve: { alias: { $: fileURLToPath(new URL('./src', import.meta.url)) } },
  build: {
    outDir: '../src/monoscope/_ui',
    emptyOutDir: true,
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    manifest: 'manifest.json',
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
  server: { proxy: { '/api': { target: process.env.MONOSCOPE_SERVER ?? 'http://127.0.0.1:8000' } } },
});
