exports.joint = ", ";
