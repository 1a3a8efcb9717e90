import { describe, expect, test } from "vitest";
import { BLOCK_ROWS } from "../src/calibration.ts";
import { openProbe, random, variants } from "./variants.ts";

const UPDATES = ["set", "set scaled", "add", "scale and add"] as const;

const blocks = variants.flatMap((variant) => BLOCK_ROWS.map((rows) => [variant, rows] as const));

describe.each(blocks)("%s, %i rows", async (variant, MR) => {
  const { probe, put, get } = await openProbe(variant);
  const padded = (n: number, unit: number): number => Math.ceil(n / unit) * unit;

  describe.each([0, 1])("A %i (0 rows contiguous, 1 transposed)", (order) => {
    test.each(UPDATES.map((name, update) => [name, update] as const))("%s", (_, update) => {
      const next = random(update + 1);
      for (const [rows, columns, n] of [
        [1, 1, 1],
        [MR, 8, 64],
        [MR + 1, 9, 3],
        [3, 17, 0],
        [2 * MR - 1, 24, 59],
        [50, 40, 129],
      ] as const) {
        const [rowsPadded, columnsPadded] = [padded(rows, MR), padded(columns, 8)];
        const stride = order === 0 ? n + 3 : rowsPadded + 5;
        const a = Float32Array.from({ length: (order === 0 ? rowsPadded : n) * stride + 8 }, next);
        const b = Float32Array.from({ length: columnsPadded * n }, next);
        const before = Float32Array.from({ length: rowsPadded * columnsPadded }, next);
        const scales = Float32Array.from({ length: rowsPadded }, next);
        const c = put(before);
        probe._product(MR, order, update, c, columnsPadded, rows, columns, put(a), stride, put(b), n, put(scales));
        const after = get(c, before.length);
        for (let r = 0; r < rows; r++) {
          for (let column = 0; column < columns; column++) {
            let sum = 0;
            for (let k = 0; k < n; k++) {
              const x = order === 0 ? a[r * stride + k] : a[k * stride + r];
              sum += x * b[Math.floor(column / 8) * 8 * n + k * 8 + (column % 8)];
            }
            const at = r * columnsPadded + column;
            const old = before[at];
            const expected = [sum, scales[0] * sum, old + sum, scales[r] * old + sum][update];
            expect(Math.abs(after[at] - expected)).toBeLessThanOrEqual(1e-6 * (1 + Math.sqrt(n)));
          }
        }
      }
    });
  });

  test("NaN in a padded row of A or column of B stays out of the rest", () => {
    const a = new Float32Array(MR * 4).fill(1);
    a.fill(NaN, 4);
    const b = new Float32Array(8 * 4).fill(1);
    for (let k = 0; k < 4; k++) b[k * 8 + 7] = NaN;
    const c = put(new Float32Array(MR * 8));
    probe._product(MR, 0, 0, c, 8, 1, 7, put(a), 4, put(b), 4, 0);
    expect([...get(c, 7)]).toEqual([4, 4, 4, 4, 4, 4, 4]);
  });
});
