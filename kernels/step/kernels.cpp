// Which instruction set the step runs on.
#include <cstring>
#include <stdexcept>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "run.h"

namespace atras::step {

extern const Kernels k_portable, k_amx_emulated;
#if defined(__x86_64__)
extern const Kernels k_avx2, k_avx512, k_avx512_bf16, k_amx;
#endif

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

bool here(const Kernels& k) {
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (&k == &k_amx) return avx512 && __builtin_cpu_supports("avx512bf16") && amx();
  if (&k == &k_avx512_bf16) return avx512 && __builtin_cpu_supports("avx512bf16");
  if (&k == &k_avx512) return avx512;
  if (&k == &k_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return &k == &k_portable || &k == &k_amx_emulated;
}

}  // namespace

const Kernels& best_kernels(const char* wanted) {
#if defined(__x86_64__)
  const Kernels* all[] = {&k_amx, &k_avx512_bf16, &k_avx512, &k_avx2, &k_portable, &k_amx_emulated};
#else
  const Kernels* all[] = {&k_portable, &k_amx_emulated};
#endif
  for (const Kernels* k : all)
    if ((*wanted == 0 || std::strcmp(wanted, k->name) == 0) && here(*k)) return *k;
  throw std::invalid_argument(std::string("step: instructions (=") + wanted +
                              "): expected amx, avx512_bf16, avx512, avx2 or portable, and one that this CPU has");
}

}  // namespace atras::step
