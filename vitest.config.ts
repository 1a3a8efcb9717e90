// Two projects: `node` runs every test but the browser ones, `browser` runs test/**/*.browser.test.ts in headless
// Chromium. Both resolve @fa/* to the sources (condition "@fa/source"), so no test waits for a build.

import { playwright } from "@vitest/browser-playwright";
import { defaultClientConditions, defaultServerConditions } from "vite";
import { defineConfig, type TestProjectInlineConfiguration } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";
import {
  CHROMIUM_ARGS,
  CHROMIUM_WEBGPU_ARGS,
  findChromium,
  findDeno,
  findLavapipe,
  findOracle,
  findSoftwareVulkan,
  offerVulkanLoader,
} from "./tools/test-needs.ts";

const BROWSER_TESTS = "packages/*/test/**/*.browser.test.ts";

const vulkan = findSoftwareVulkan();
offerVulkanLoader(vulkan);

const pathOf = (need: { path?: string | undefined }): string => need.path ?? "";

const node: TestProjectInlineConfiguration = {
  resolve: { conditions: ["@fa/source", ...defaultServerConditions] },
  ssr: { resolve: { conditions: ["@fa/source", ...defaultServerConditions] } },
  test: {
    name: "node",
    include: ["packages/*/test/**/*.test.ts", "apps/*/test/**/*.test.ts", "tools/**/*.test.ts"],
    exclude: [BROWSER_TESTS, "**/node_modules/**"],
    setupFiles: ["tools/fixed-seed.ts", "tools/calm-polling.ts"],
    // Where tests find what lies outside the repository; empty when it is not here.
    env: {
      FA_ORACLE: pathOf(findOracle()),
      FA_VULKAN_ICD: pathOf(vulkan),
      FA_LAVAPIPE_ICD: pathOf(findLavapipe()),
      FA_DENO: pathOf(findDeno()),
    },
    testTimeout: 60_000,
  },
};

function browser(executablePath: string): TestProjectInlineConfiguration {
  return {
    resolve: { conditions: ["@fa/source", ...defaultClientConditions] },
    // Cross-origin isolation: SharedArrayBuffer, and with it wasm threads.
    server: {
      headers: { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" },
    },
    test: {
      name: "browser",
      include: [BROWSER_TESTS],
      testTimeout: 60_000,
      browser: {
        enabled: true,
        headless: true,
        screenshotFailures: false,
        provider: playwright({ launchOptions: { executablePath, args: [...CHROMIUM_ARGS, ...CHROMIUM_WEBGPU_ARGS] } }),
        instances: [{ browser: "chromium" }],
      },
    },
  };
}

/** What software adapters compile shaders for, minutes each, first, so that no core waits for one at the end. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    // oxlint-disable-next-line unicorn/no-array-sort -- not of an array: the order that vitest would take
    const sorted = await super.sort(files);
    const isLong = ({ moduleId }: TestSpecification): boolean => moduleId.includes("/conformance.webgpu.");
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))];
  }
}

const chromium = findChromium();

export default defineConfig({
  test: {
    // Vitest leaves one core alone, which is half of them where there are two.
    maxWorkers: "100%",
    sequence: { sequencer: LongestFirst },
    projects: chromium.found ? [node, browser(chromium.path)] : [node],
  },
});
