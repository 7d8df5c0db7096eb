/* symbol.c - a library whose one symbol has a version. */
int ds_test_symbol(void);
int ds_test_symbol(void) {
  return 1;
}
