from lin import *
tr=(~META.held).to_numpy(); K=META.kind.to_numpy(); SRC=META.src.to_numpy(); S=slice(0,1120); cl=META.clean.to_numpy(); lf=META.logfr.to_numpy()
zz=lambda d:[round(float(((d-d.mean())/d.std())[SUB==k].mean()),2) for k in sorted(set(SUB))]
def run(tag,m,y,pen=3e4):
    f=ridge(POOL[m][:,S],y[m],pen); report(f'{tag} n={m.sum()}',f(DEV[:,S]),f(SYNF[:,S]),f(POOL[HELD][:,S]),HT); print('   ',zz(f(DEV[:,S]))); return f
w=tr&(K=='web'); run('web only',w,cl,1e4)
run('web only',w,cl,3e4)
run('web only logfr',w,lf,1e4)
x=tr&~((K=='clean')&(SRC=='clean')); run('all distorted, web clean',x,cl,3e4)
y=cl.copy(); y[(K=='clean')&(SRC=='clean')]=.5; run('photos .5, web 1',tr,y,3e4)
