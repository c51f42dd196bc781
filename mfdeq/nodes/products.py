"""How the products with derivatives of h*(theta) follow from each other.

With y'h''[u, v] = u'(Hessian of y'h*) v, each product is a transpose or a derivative of another.
"""

# The derivative of each product with respect to theta, along a last operand.
DERIVATIVES = {"sensitivity": "second_order", "sensitivity_adjoint": "component_hessian"}
# The transpose of each product with respect to each operand, and whether the cotangent is the last
# operand of it.
TRANSPOSES = {
    "sensitivity": [("sensitivity_adjoint", False)],
    "sensitivity_adjoint": [("sensitivity", False)],
    "second_order": [("component_hessian", False), ("component_hessian", False)],
    "component_hessian": [("second_order", False), ("component_hessian", True)],
}
