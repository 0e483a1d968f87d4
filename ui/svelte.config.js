// Types are erased by Svelte itself: no preprocessor.
export default {
  compilerOptions: { runes: true, discloseVersion: false },
};
