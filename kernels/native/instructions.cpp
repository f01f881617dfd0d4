#include "instructions.h"

#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace atras {
namespace {

#if defined(__x86_64__)
// AMX needs the kernel's permission, once a process.
bool amx() {
  static const bool granted = [] {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
}
#endif

}  // namespace

const char* vendor() {
#if defined(__x86_64__)
  static const struct Name {
    char text[13] = {};
    Name() {
      unsigned a, parts[3];
      if (__get_cpuid(0, &a, &parts[0], &parts[2], &parts[1])) std::memcpy(text, parts, 12);
    }
  } name;
  return name.text;
#else
  return "";
#endif
}

bool runs_here(Instructions id) {
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  switch (id) {
    case Instructions::amx: return avx512 && __builtin_cpu_supports("avx512bf16") && amx();
    case Instructions::avx512_bf16: return avx512 && __builtin_cpu_supports("avx512bf16");
    case Instructions::avx512: return avx512;
    case Instructions::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    default: return true;
  }
#else
  return id == Instructions::portable || id == Instructions::amx_emulated;
#endif
}

Instructions best_instructions() {
  static const Instructions best = find_instructions("")->id;
  return best;
}

const InstructionSet* find_instructions(const char* name) {
  for (const InstructionSet& set : kInstructionSets)
    if ((*name == 0 || std::strcmp(name, set.name) == 0) && runs_here(set.id)) return &set;
  return nullptr;
}

}  // namespace atras
