// Curves of training runs: smoothing, marks of an axis, and rows that come in while they are looked at.

/** Exponential means with the start corrected, so that the first values are not pulled to zero; gaps stay gaps. */
export function smoothed(values: (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return values;
  let mean = 0;
  let seen = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null;
    mean = weight * mean + (1 - weight) * value;
    seen = weight * seen + (1 - weight);
    return mean / seen;
  });
}

/** Three to six round numbers between two others; on a log axis powers of ten, or 1, 2 and 5 times them. */
export function ticks(low: number, high: number, log: boolean): number[] {
  if (!(high > low)) return [];
  if (log && low > 0) {
    const factors = high / low > 300 ? [1] : [1, 2, 5];
    const out: number[] = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const factor of factors) {
        const mark = factor * 10 ** power;
        if (mark >= low && mark <= high) out.push(mark);
      }
    }
    return out.length > 7 ? out.filter((_, i) => i % Math.ceil(out.length / 6) === 0) : out;
  }
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough) ?? rough;
  const out: number[] = [];
  for (let mark = Math.ceil(low / step) * step; mark <= high + step * 1e-9; mark += step) out.push(Number(mark.toPrecision(12)));
  return out;
}

/** The same curve with more rows behind it; rows that are there already are left out. */
export function extended(curve: { step: number[]; value: (number | null)[] }, rows: Record<string, number | null>[], name: string): { step: number[]; value: (number | null)[] } {
  const last = curve.step.at(-1) ?? -Infinity;
  const fresh = rows.filter((row) => typeof row['step'] === 'number' && (row['step'] as number) > last && name in row);
  if (!fresh.length) return curve;
  return { step: [...curve.step, ...fresh.map((row) => row['step'] as number)], value: [...curve.value, ...fresh.map((row) => row[name] ?? null)] };
}
