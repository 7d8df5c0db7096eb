#include "suite.h"
const unit faults_units[] = {{0}};
