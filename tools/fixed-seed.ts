// Property tests draw the same problems every run, so that a red CI is somebody's change and not somebody's luck.
// FA_SEED=12345 npm test draws others.

import * as fc from "fast-check";

fc.configureGlobal({ seed: Number(process.env.FA_SEED ?? 1) });
