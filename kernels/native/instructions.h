// The instruction sets that code is compiled for: one table, and the one query of what this CPU runs.
#pragma once

namespace atras {

enum class Instructions { portable, avx2, avx512, avx512_bf16, amx, amx_emulated };

struct InstructionSet {
  Instructions id;
  const char* name;
  bool bf16;  // whether it multiplies bf16 numbers; the others emulate that
};

// The widest first. The last one is for tests: as `portable` runs everywhere, it is never the best.
constexpr InstructionSet kInstructionSets[] = {
    {Instructions::amx, "amx", true},       {Instructions::avx512_bf16, "avx512_bf16", true},
    {Instructions::avx512, "avx512", false}, {Instructions::avx2, "avx2", false},
    {Instructions::portable, "portable", false}, {Instructions::amx_emulated, "amx_emulated", false},
};

constexpr const InstructionSet& set_of(Instructions id) {
  const InstructionSet* set = kInstructionSets;
  while (set->id != id) ++set;
  return *set;
}

// The processor's maker as it names itself, such as GenuineIntel; empty where it is not an x86.
const char* vendor();

// Whether this CPU (and, for AMX, its operating system) runs a set.
bool runs_here(Instructions id);

// The widest set that runs here; asked once a process.
Instructions best_instructions();

// The set of a name, or the best one for an empty name; null where there is none of the name or it does not run here.
const InstructionSet* find_instructions(const char* name);

}  // namespace atras
