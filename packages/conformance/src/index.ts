/** `@fa/conformance`: the suite that holds every back end to the same answers, as a library. */
export { conformance, conformanceChecks, runCheck } from "./runner.ts";
export type { CheckResult, ConformanceOptions, ConformanceReport } from "./runner.ts";
export { formatReport } from "./report.ts";
export { Mismatch, type Check } from "./check.ts";
export { CASES, caseCheck, inputsOf, type Case } from "./cases.ts";
export { checkPhiloxAnswers } from "./golden.ts";
export { GOLDEN, readCaseFile, type CaseFile } from "./files.ts";
export { nullBackend, type NullProvider, type Recorded } from "./null-backend.ts";
export { Random } from "./random.ts";
export { Subject, arrayOf, numbersOf, stored, type Inputs, type Numbers, type Options } from "./subject.ts";
export { compare, type Comparison, type Expected } from "./tolerance.ts";
