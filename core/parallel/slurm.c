#include "parallel/slurm.h"

#include <string.h>

bool ds_slurm_first_host(const char *list, char *out, size_t size) {
  size_t n = 0;
  for (const char *p = list; *p && *p != ',';) {
    size_t take = strcspn(p, "[,");
    const char *from = p;
    p += take;
    if (*p == '[') { /* of each range the first number, as it is written */
      const char *end = strchr(p, ']');
      size_t digits = strspn(p + 1, "0123456789");
      if (!end || digits == 0 || !strchr("-,]", p[1 + digits]) || n + take + digits >= size)
        return false;
      memcpy(out + n, from, take);
      memcpy(out + n + take, p + 1, digits);
      n += take + digits;
      p = end + 1;
      continue;
    }
    if (n + take >= size) return false;
    memcpy(out + n, from, take);
    n += take;
  }
  if (n == 0) return false;
  out[n] = '\0';
  return true;
}
