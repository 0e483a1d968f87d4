// Work that what is seen does not wait for.

/** Milliseconds after a frame is begun in which it is laid out, painted and handed to the screen. */
const FRAME = 32;

/** Run once the frame that is being made has been painted. Returns what calls it off. */
export function afterPaint(run: () => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const frame = requestAnimationFrame(() => (timer = setTimeout(run, FRAME)));
  return () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
  };
}

/** Once the frame that is being made has been painted. Rejects if that is no longer wanted. */
export async function painted(signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => void afterPaint(resolve));
  signal.throwIfAborted();
}
