// Asks Linux for AMX's registers, which it gives a process only on request (arch_prctl(2), kernel 5.16).
#include "export.h"

#include <sys/syscall.h>
#include <unistd.h>

// 1 where this process, and the threads it starts, may use tiles.
EXPORT int tessera_amx_permit() {
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
