import { reference } from "@fa/core";
import { describeConformance } from "./suite.ts";

await describeConformance("reference, tiled", reference());
await describeConformance("reference, naive", reference({ algorithm: "naive" }), { runs: 4 });
