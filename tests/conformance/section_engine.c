#include "suite.h"
const unit engine_units[] = {{0}};
