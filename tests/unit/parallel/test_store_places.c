/* Where rank 0 may be: ports that follow from a word, addresses of a host. */
#include "parallel/store_places.h"

#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static void test_ports(void) {
  static const uint64_t jobs[] = {0, 1, 12767, 12768, UINT64_MAX, 0x0123456789abcdefu};
  for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++)
    for (int i = 0; i < DS_STORE_PORTS; i++) {
      int p = ds_store_job_port(jobs[j], i);
      CHECK(p >= DS_STORE_PORT_FIRST && p < DS_STORE_PORT_END);
      for (int k = 0; k < i; k++) CHECK(p != ds_store_job_port(jobs[j], k));
    }
  CHECK(ds_store_job_port(5, 0) == 20005 && ds_store_job_port(12768 + 5, 1) == 21014);
}

static void test_addresses(void) {
  ds_error err;
  ds_store_places p;
  CHECK_OK(ds_store_places_find(&p, "127.0.0.9", 1234, 7, "there", 0, &err), err);
  const struct sockaddr_in *v4 = (const struct sockaddr_in *)&p.at[0].at;
  CHECK(p.count == 1 && p.at[0].length == sizeof *v4 && v4->sin_family == AF_INET);
  CHECK(v4->sin_port == htons(1234) && v4->sin_addr.s_addr == htonl(0x7f000009));
  CHECK_OK(ds_store_places_find(&p, "::1", 1234, 7, "there", 0, &err), err);
  const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&p.at[0].at;
  CHECK(p.count == 1 && v6->sin6_family == AF_INET6 && v6->sin6_port == htons(1234));
  CHECK_OK(ds_store_places_find(&p, "127.0.0.9", 0, 7, "there", 0, &err), err);
  CHECK(p.count == DS_STORE_PORTS);
  for (int i = 0; i < p.count; i++) {
    v4 = (const struct sockaddr_in *)&p.at[i].at;
    CHECK(ntohs(v4->sin_port) == ds_store_job_port(7, i));
  }
  CHECK_FAILS(ds_store_places_find(&p, "no.such.host.invalid", 1, 7, "there", 0, &err),
              DS_ERR_NOT_FOUND, err, "rendezvous at there:");
}

static void test_here(void) {
  ds_store_places p, q;
  ds_store_places_here(&p, 7);
  ds_store_places_here(&q, 8);
  CHECK(p.count == 1 && p.at[0].at.ss_family == AF_UNIX);
  CHECK(memcmp(&p.at[0], &q.at[0], sizeof p.at[0]) != 0);
}

int main(void) {
  test_ports();
  test_addresses();
  test_here();
  return TEST_RESULT();
}
