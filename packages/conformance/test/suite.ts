import { createAttention, type Attention, type BackendProvider } from "@fa/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { conformanceChecks, runCheck, type ConformanceOptions } from "../src/runner.ts";
import { Subject } from "../src/subject.ts";

/** The whole suite as tests, one a check. A back end of ours refuses nothing: a refusal fails. */
export async function describeConformance(
  title: string,
  provider: BackendProvider,
  options: ConformanceOptions & { readonly timeoutMs?: number } = {},
): Promise<void> {
  const checks = await conformanceChecks(options);
  describe(title, { timeout: options.timeoutMs }, () => {
    let fa: Attention;
    beforeAll(async () => {
      fa = await createAttention({ backends: [provider] });
    });
    afterAll(async () => {
      expect(fa.memory().currentBytes, "bytes that checks left behind").toBeLessThan(64 * 2 ** 20);
      await fa.dispose();
    });
    for (const check of checks) {
      it(`${check.capability}: ${check.name}`, async () => {
        const { status, reason } = await runCheck(new Subject(fa, options.blockSize), check);
        expect(status, reason).toBe("passed");
      });
    }
  });
}
