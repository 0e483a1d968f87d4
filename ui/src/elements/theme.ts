// Light or dark, as the notebook around says it; a browser's own preference where it says nothing.

export function surroundings(): 'light' | 'dark' | null {
  const { body, documentElement: root } = document;
  const jupyter = body.dataset['jpThemeLight'];
  if (jupyter) return jupyter === 'true' ? 'light' : 'dark';
  const editor = body.dataset['vscodeThemeKind'];
  if (editor) return editor.includes('light') ? 'light' : 'dark';
  const named = root.getAttribute('theme') ?? root.dataset['theme'];
  if (named === 'light' || named === 'dark') return named;
  return root.classList.contains('dark') || body.classList.contains('dark') ? 'dark' : null;
}
