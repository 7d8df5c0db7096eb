/* gone.c - a library that can be linked with but not be found: its soname is no file's name. */
int ds_test_gone(void);
int ds_test_gone(void) {
  return 1;
}
