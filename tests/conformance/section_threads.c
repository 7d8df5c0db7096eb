#include "suite.h"
const unit threads_units[] = {{0}};
