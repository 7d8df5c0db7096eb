/* middle.c - a library that is there, and needs one that isn't. */
int ds_test_gone(void);
int ds_test_middle(void);
int ds_test_middle(void) {
  return ds_test_gone();
}
