#include "suite.h"
const unit lifetime_units[] = {{0}};
