#include "suite.h"
const unit abi_units[] = {{0}};
